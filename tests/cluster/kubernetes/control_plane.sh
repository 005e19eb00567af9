#!/bin/bash
# control_plane.sh ADDRESS: etcd, API server, controllers and scheduler, until one of them ends.
set -euo pipefail
readonly KEYS=/keys

etcd --data-dir /var/lib/etcd --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --log-level warn &>/var/log/etcd.log &
kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address="$1" \
    --service-cluster-ip-range=10.96.0.0/16 --endpoint-reconciler-type=lease \
    --tls-cert-file=$KEYS/apiserver.crt --tls-private-key-file=$KEYS/apiserver.key --client-ca-file=$KEYS/ca.crt \
    --kubelet-client-certificate=$KEYS/apiserver.crt --kubelet-client-key=$KEYS/apiserver.key \
    --kubelet-certificate-authority=$KEYS/ca.crt --kubelet-preferred-address-types=InternalIP \
    --service-account-key-file=$KEYS/accounts.key --service-account-signing-key-file=$KEYS/accounts.key \
    --service-account-issuer=https://kubernetes.default.svc \
    --allow-privileged --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction &>/var/log/apiserver.log &
# A node is lost after 40 s. That was the default until 1.32, which has 50 s.
kube-controller-manager --kubeconfig=$KEYS/manager.conf --use-service-account-credentials \
    --service-account-private-key-file=$KEYS/accounts.key --root-ca-file=$KEYS/ca.crt \
    --node-monitor-grace-period=40s --leader-elect=false &>/var/log/manager.log &
kube-scheduler --kubeconfig=$KEYS/scheduler.conf --leader-elect=false &>/var/log/scheduler.log &
wait -n
