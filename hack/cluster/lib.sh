# Sourced by the scripts beside it: where the cluster's things are, and how its programs are started and stopped.
# shellcheck shell=bash

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# Kept between runs: certificates, container images, logs of the last run. etcd's data go with `down`.
state=${XDG_CACHE_HOME:-/var/cache}/ondemand-disk/cluster
binaries=${XDG_CACHE_HOME:-/var/cache}/ondemand-disk/kubernetes-1.20
# Short, because the name of a unix socket ends at 107 characters.
run=/run/ondemand-disk-cluster
# CSI drivers have this path built in.
kubelet_root=/var/lib/kubelet
pids=$state/pid
logs=$state/log
pki=$state/pki
config=$state/config
kubeconfig=$state/admin.kubeconfig
containerd_socket=$run/containerd.sock

# The node's address is on a bridge of its own: an API server refuses to advertise a loopback address.
node=node1
node_ip=10.200.0.1
pod_cidr=10.244.0.0/16
node_pod_cidr=10.244.0.0/24
service_cidr=10.96.0.0/16
kubernetes_service_ip=10.96.0.1
api=https://$node_ip:6443

# in order of start
components=(etcd apiserver containerd kcm scheduler dns kubelet proxy)

need_root() { ((EUID == 0)) || exec sudo ${XDG_CACHE_HOME:+"XDG_CACHE_HOME=$XDG_CACHE_HOME"} "$(readlink -f "$0")" "$@"; }

# Said with the seconds since the script began.
progress() { say "$(printf '%3d s  %s' "$SECONDS" "$*")"; }

kube() { kubectl --kubeconfig "$kubeconfig" "$@"; }
ctr_kube() { ctr -a "$containerd_socket" -n k8s.io "$@"; }

# A pid file holds the process's id and its start time: an id that was given to a stranger has another.
start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # What follows the program's name, which may hold blanks and brackets.
  read -ra stat <<<"${stat##*) }"
  # A zombie counts as gone.
  [[ ${stat[0]} != Z ]] && printf '%s\n' "${stat[19]}"
}

# alive COMPONENT
alive() {
  local pid started
  [[ -f $pids/$1 ]] && read -r pid started <"$pids/$1" && [[ $(start_time "$pid") == "$started" ]]
}

# start COMPONENT COMMAND...: unless it runs.
start() {
  local name=$1
  shift
  ! alive "$name" || return 0
  # A session of its own, so that it outlives this script and gets no ^C; without the locks of whoever called.
  setsid "$@" >>"$logs/$name.log" 2>&1 </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
  printf '%s %s\n' $! "$(start_time $!)" >"$pids/$name"
}

# stop COMPONENT SECONDS: by SIGTERM, and by SIGKILL after so long.
stop() {
  local name=$1 tenths=$(($2 * 10)) pid started
  if alive "$name"; then
    read -r pid started <"$pids/$name"
    kill -TERM "$pid" 2>/dev/null
    while alive "$name" && ((tenths-- > 0)); do sleep 0.1; done
    ! alive "$name" || kill -KILL "$pid"
  fi
  rm -f "$pids/$name"
}

# wait_for SECONDS COMPONENT COMMAND...: until the command succeeds; the script ends when the component does.
wait_for() {
  local tenths=$(($1 * 10)) name=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    alive "$name" || die "$name ended: $(tail -n 15 "$logs/$name.log")"
    ((tenths-- > 0)) || die "$name is not ready, '$*' fails: $(tail -n 15 "$logs/$name.log")"
    sleep 0.1
  done
}
