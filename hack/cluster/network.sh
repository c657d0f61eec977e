# Sourced by `up` and `down`: the node's own bridge and iptables chains.
# shellcheck shell=bash

# The machine's own choice of nft or legacy, as kube-proxy, the CNI plugins and Docker use it: in the other one's
# tables a rule that accepts would not undo Docker's DROP.
iptables() { command iptables -w "$@"; }

# rule TABLE CHAIN RULE...: put first, once.
rule() {
  local table=$1 chain=$2
  shift 2
  iptables -t "$table" -C "$chain" "$@" 2>/dev/null || iptables -t "$table" -I "$chain" "$@"
}

network_up() {
  local outside address
  ip link show odd-node >/dev/null 2>&1 || ip link add odd-node type bridge
  ip addr replace "$node_ip/32" dev odd-node
  ip link set odd-node up
  echo 1 >/proc/sys/net/ipv4/ip_forward
  [[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
  iptables -t filter -N ODD-FORWARD 2>/dev/null || true
  iptables -t nat -N ODD-POSTROUTING 2>/dev/null || true
  # Docker sets the policy of FORWARD to DROP.
  rule filter ODD-FORWARD -s "$pod_cidr" -j ACCEPT
  rule filter ODD-FORWARD -d "$pod_cidr" -j ACCEPT
  rule filter FORWARD -j ODD-FORWARD
  rule nat ODD-POSTROUTING -s "$pod_cidr" ! -d "$pod_cidr" -j MASQUERADE
  rule nat POSTROUTING -j ODD-POSTROUTING
  # Nobody outside the machine may reach the cluster.
  outside=$(ip -o route show default | sed -nE 's/.* dev ([^ ]+).*/\1/p' | head -n 1)
  [[ -n $outside ]] || return 0
  for address in $node_ip/32 $pod_cidr $service_cidr; do
    rule raw PREROUTING -i "$outside" -d "$address" -m comment --comment ondemand-disk-cluster -j DROP
  done
}

# What kube-proxy, the kubelet and the portmap plugin left goes, too.
network_down() {
  local table chains chain link line
  for table in raw mangle filter nat; do
    while read -r line; do
      # The line is in iptables's own quoting, which xargs reads.
      xargs iptables -w -t $table <<<"${line/#-A/-D}"
    done < <(iptables -t $table -S 2>/dev/null |
      grep -E '^-A (PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) .*(-j (KUBE-|ODD-|CNI-)|--comment ondemand-disk-cluster)')
    chains=$(iptables -t $table -S 2>/dev/null | sed -nE 's/^-N ((KUBE-|ODD-|CNI-).*)/\1/p')
    for chain in $chains; do iptables -t $table -F "$chain"; done
    for chain in $chains; do iptables -t $table -X "$chain"; done
  done
  for link in odd-pods odd-node kube-ipvs0; do ip link del $link 2>/dev/null || true; done
}

network_left() { iptables-save 2>/dev/null | grep -E 'KUBE-|ODD-|CNI-'; }
