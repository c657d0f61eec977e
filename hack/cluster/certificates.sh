# Sourced by `up`: the cluster's keys, certificates and kubeconfig files. What is there is kept.
# shellcheck shell=bash

# make_ca NAME
make_ca() {
  [[ -s $pki/$1.crt ]] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 \
    -subj "/CN=ondemand-disk-$1" -keyout "$pki/$1.key" -out "$pki/$1.crt" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
}

# make_certificate NAME SUBJECT EXTENSION...
make_certificate() {
  local name=$1 subject=$2
  shift 2
  [[ ! -s $pki/$name.crt ]] || return 0
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$pki/$name.key" -out "$pki/$name.csr" \
    -subj "$subject" 2>/dev/null
  openssl x509 -req -in "$pki/$name.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -set_serial "0x$(openssl rand -hex 12)" \
    -days 3650 -sha256 -out "$pki/$name.crt" 2>/dev/null \
    -extfile <(printf '%s\n' basicConstraints=CA:FALSE keyUsage=digitalSignature,keyEncipherment "$@")
}

# make_kubeconfig FILE CERTIFICATE
make_kubeconfig() {
  [[ -s $1 ]] || (
    umask 077
    cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: ondemand-disk
clusters: [{name: ondemand-disk, cluster: {server: "$api", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}]
users: [{name: $2, user: {client-certificate-data: $(base64 -w0 "$pki/$2.crt"), client-key-data: $(base64 -w0 "$pki/$2.key")}}]
contexts: [{name: ondemand-disk, context: {cluster: ondemand-disk, user: $2}}]
YAML
  )
}

make_credentials() {
  local client=extendedKeyUsage=clientAuth server=extendedKeyUsage=serverAuth name
  make_ca ca
  make_ca front-proxy-ca
  [[ -s $pki/sa.pub ]] || { openssl genrsa -out "$pki/sa.key" 2048 && openssl rsa -in "$pki/sa.key" -pubout -out "$pki/sa.pub"; } 2>/dev/null
  make_certificate apiserver /CN=kube-apiserver $server \
    "subjectAltName=IP:$node_ip,IP:127.0.0.1,IP:$kubernetes_service_ip,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  make_certificate kubelet-server "/CN=system:node:$node/O=system:nodes" $server "subjectAltName=IP:$node_ip,DNS:$node"
  make_certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client $client
  make_certificate admin /O=system:masters/CN=admin $client
  make_certificate kcm /CN=system:kube-controller-manager $client
  make_certificate scheduler /CN=system:kube-scheduler $client
  make_certificate proxy /CN=system:kube-proxy $client
  make_certificate kubelet "/O=system:nodes/CN=system:node:$node" $client
  make_kubeconfig "$kubeconfig" admin
  for name in kcm scheduler proxy kubelet; do make_kubeconfig "$config/$name.kubeconfig" $name; done
}
