"""The same stack on a Kubernetes cluster, generated from docker-compose.yml and dagster.yaml.

The gap: Dagster's Helm chart describes another deployment: no sign-in, no edge, no database roles,
no policy for run pods. Whoever moves to a cluster would configure everything a second time. Here
each object on the cluster follows from the files that describe the stack on one machine.

    manifests.py   services, networks and volumes become Deployments, policies and Secrets
    run_pods.py    the launcher section of dagster.yaml becomes the pod of a run
    admission.py   ... and the rules by which the cluster refuses every other pod
"""
