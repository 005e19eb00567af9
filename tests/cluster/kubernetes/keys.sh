#!/bin/bash
# keys.sh NETWORK NODES: the keys, certificates and client files of a cluster, in /keys. Nodes have the
# addresses NETWORK.10, NETWORK.11, ...; the first one has the control plane.
set -euo pipefail
readonly NETWORK=$1 NODES=$2 CURVE="ec -pkeyopt ec_paramgen_curve:prime256v1"
cd /keys

issue() { # name, subject, what it is valid for
    # shellcheck disable=SC2086 # words
    openssl req -newkey $CURVE -nodes -keyout "$1.key" -subj "$2" 2>/dev/null |
        openssl x509 -req -CA ca.crt -CAkey ca.key -days 365 -out "$1.crt" -extfile <(
            printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth,serverAuth\n'
            printf '%s\n' "${3:+subjectAltName=$3}"
        ) 2>/dev/null
    cat >"$1.conf" <<CLIENT
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$NETWORK.10:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: me, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: test, context: {cluster: test, user: me}}]
current-context: test
CLIENT
}

# Python 3.13 takes no authority that does not say what its key is for.
# shellcheck disable=SC2086 # words
openssl req -x509 -newkey $CURVE -nodes -days 365 -keyout ca.key -out ca.crt -subj /CN=test \
    -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
openssl genrsa -out accounts.key 2048 2>/dev/null
issue apiserver /O=system:masters/CN=apiserver "IP:$NETWORK.10,IP:10.96.0.1,IP:127.0.0.1,DNS:kubernetes.default.svc"
issue admin /O=system:masters/CN=admin
issue manager /CN=system:kube-controller-manager
issue scheduler /CN=system:kube-scheduler
issue proxy /CN=system:kube-proxy
for ((node = 0; node < NODES; node++)); do
    issue "node$node" "/O=system:nodes/CN=system:node:node$node" "DNS:node$node,IP:$NETWORK.1$node"
done
