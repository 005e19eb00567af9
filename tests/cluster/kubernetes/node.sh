#!/bin/bash
# node.sh NETWORK NUMBER NODES: a node of a cluster, which has the address NETWORK.1NUMBER. Each of its
# processes is started again when it ends.
set -euo pipefail
readonly NETWORK=$1 NUMBER=$2 NODES=$3 NAME=node$2 SERVICES=10.96.0.0/16 PODS=10.244.0.0/16

keep() { # log, command
    local log=/var/log/$1.log
    shift
    while :; do
        "$@" &>>"$log" || :
        sleep 1
    done
}

# Volumes of pods are mounted while the node runs.
mount --make-rshared /
mkdir -p /etc/cni/net.d /etc/containerd
cat >/etc/cni/net.d/10-pods.conflist <<CNI
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.$NUMBER.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
CNI
for ((other = 0; other < NODES; other++)); do
    [ "$other" = "$NUMBER" ] || ip route replace "10.244.$other.0/24" via "$NETWORK.1$other"
done
iptables -t nat -A POSTROUTING -s $PODS ! -d $PODS -j MASQUERADE
# Until kube-proxy knows a Service, its address must not lead out of the cluster.
iptables -t mangle -A POSTROUTING -d $SERVICES -j DROP

# restrict_oom_score_adj: in a container that may not lower it, no pod would start.
cat >/etc/containerd/config.toml <<CONTAINERD
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "test/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
CONTAINERD
# The registry of the tests, by whatever name this machine reaches it.
mkdir -p /etc/containerd/certs.d/_default
printf '[host."http://%s.60:5000"]\n  capabilities = ["pull", "resolve"]\n' "$NETWORK" >/etc/containerd/certs.d/_default/hosts.toml
# cgroups v1 are what some machines have; 1.34 is the last version that takes them by default.
cat >/etc/kubelet.yaml <<KUBELET
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /keys/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: /keys/$NAME.crt
tlsPrivateKeyFile: /keys/$NAME.key
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
# The disk is shared with everything else on the machine.
evictionHard: {memory.available: 100Mi, nodefs.available: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
KUBELET

keep containerd containerd &
keep kubelet kubelet --config=/etc/kubelet.yaml --kubeconfig="/keys/$NAME.conf" --hostname-override="$NAME" --node-ip="$NETWORK.1$NUMBER" &
keep proxy kube-proxy --kubeconfig=/keys/proxy.conf --hostname-override="$NAME" --cluster-cidr=$PODS --conntrack-max-per-core=0 --proxy-mode=iptables &
keep router kube-router --kubeconfig=/keys/admin.conf --hostname-override="$NAME" --run-router=false --run-service-proxy=false --run-firewall=true --service-cluster-ip-range=$SERVICES &
[ "$NUMBER" != 0 ] || keep control_plane /opt/kubernetes/control_plane.sh "$NETWORK.10" &
wait
