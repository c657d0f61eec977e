# Sourced by `up`: the configuration files of containerd, of the pod network and of the kubelet.
# shellcheck shell=bash

write_config() {
  # Root may lack CAP_SYS_RESOURCE, which a negative oom_score_adj takes: restrict_oom_score_adj.
  cat >"$config/containerd.toml" <<TOML
version = 2
root = "$state/containerd"
state = "$run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "$containerd_socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "$run/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$config/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
TOML
  cat >"$config/cni/10-ondemand-disk.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "ondemand-disk", "plugins": [
  {"type": "bridge", "bridge": "odd-pods", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$run/ipam", "ranges": [[{"subnet": "$node_pod_cidr"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  printf 'nameserver 127.0.0.1\n' >"$config/resolv.conf"
  # Every image was brought here by hand and cannot be pulled again: it must not be collected.
  cat >"$config/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $node_ip
port: 10250
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet-server.crt
tlsPrivateKeyFile: $pki/kubelet-server.key
rotateCertificates: false
clusterDomain: cluster.local
clusterDNS: [$node_ip]
cgroupDriver: cgroupfs
failSwapOn: false
resolvConf: $config/resolv.conf
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 240h
nodeStatusUpdateFrequency: 1s
serializeImagePulls: false
YAML
}
