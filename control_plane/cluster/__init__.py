"""The same stack on a Kubernetes cluster, generated from docker-compose.yml and dagster.yaml.

The gap: Dagster's Helm chart describes another deployment: no sign-in, no edge, no database roles,
no policy for run pods. Whoever moves to a cluster would configure everything a second time. Here
each object on the cluster follows from the files that describe the stack on one machine.

    description.py what is known of the stack
    manifests.py   its services become Deployments
    networks.py    its networks become Services, policies and names
    volumes.py     its volumes become Secrets, or are empty
    run_pods.py    the launcher section of dagster.yaml becomes the pod of a run
    admission.py   ... and the rules by which the cluster refuses every other pod
"""
