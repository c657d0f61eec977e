# Sourced by the scripts beside it that build a program: once a machine, whichever checkout it is that asks.
# shellcheck shell=bash

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

cache=${XDG_CACHE_HOME:-/var/cache}/ondemand-disk

# build_once NAME: calls `build` unless `is_built` says that there is nothing to do; both are the script's own. NAME is
# that of the log and the lock in the cache.
build_once() {
  log=$cache/$1.log
  if is_built; then return; fi
  ((EUID == 0)) || exec sudo ${XDG_CACHE_HOME:+"XDG_CACHE_HOME=$XDG_CACHE_HOME"} "$0"
  mkdir -p "$cache"
  exec 8>"$cache/$1.lock"
  flock 8
  # Another script may have built it while this one waited for its turn.
  if ! is_built; then build >&2; fi
}

# new_work NAME: makes the folder $work, which goes away with the script, as what a killed one has left does now.
new_work() {
  rm -rf "$cache/$1".??????
  work=$(mktemp -d "$cache/$1.XXXXXX")
  # shellcheck disable=SC2064  # the folder is known now
  trap "chmod -R u+w '$work'; rm -rf '$work'" EXIT
}

# build_failed WHAT
build_failed() {
  tail -n 30 "$log" >&2
  die "$1 could not be built: see above (all of it: $log)."
}
