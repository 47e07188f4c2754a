#!/usr/bin/env bash
# Installs what Berth needs on this machine: programs by apt, npm packages beside the checkout.
# Idempotent: when everything is there it only looks, and does not touch the network.
#   scripts/setup.sh [--quiet] [--tests] [--bench] [--configure-host]
#     --quiet           a line only for what is done, none for what is already there
#     --tests           also the programs that the tests need
#     --bench           also those that the benchmarks need
#     --configure-host  have this host forward packets, at this boot and all later ones: sandboxes that may reach the outside need it
set -euo pipefail

quiet=no tests=no bench=no configure=no
for option; do
  case "$option" in
    --quiet) quiet=yes ;;
    --tests) tests=yes ;;
    --bench) tests=yes bench=yes ;;
    --configure-host) configure=yes ;;
    *) echo "setup: unknown option '$option'; usage: scripts/setup.sh [--quiet] [--tests] [--bench] [--configure-host]" >&2; exit 2 ;;
  esac
done

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
backports_file=/etc/apt/sources.list.d/berth-backports.sources
# The first runsc whose systrap platform runs current coreutils.
runsc_minimum=20240701
# Raise it with every change of what install-image-tools.sh installs.
image_tools_stamp=1
berth_bin=/usr/local/lib/berth/bin
# As Berth looks for programs: its own directory first.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH="$berth_bin:$PATH:/usr/sbin:/sbin"
# shellcheck disable=SC1091
ID='' VERSION_ID='' VERSION_CODENAME='' PRETTY_NAME=''; [ ! -r /etc/os-release ] || . /etc/os-release

say () { echo "setup: $*"; }
note () { [ "$quiet" = yes ] || say "$*"; }
fail () { echo "setup: $1" >&2; shift; for line in "$@"; do echo "       $line" >&2; done; exit 1; }

as_root () {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo --preserve-env=DEBIAN_FRONTEND,LC_ALL "$@"; fi
}

# Asks for the password here, where it can be seen: later the output of programs goes to a file.
require_root () {
  [ "$(id -u)" -ne 0 ] || return 0
  local missing=$1
  command -v sudo >/dev/null || fail "root is needed to install: $missing" 'run this as root: npm run setup'
  sudo -n true 2>/dev/null || sudo -v || fail "root is needed to install: $missing" 'run this as root, or as a user whom sudo lets in'
}

# ---- programs -------------------------------------------------------------------------------------------

# program:package; a program that is there some other way (a vendor's package, /usr/local) is left alone.
programs='curl:curl conmon:conmon tini-static:tini catatonit:catatonit runc:runc nft:nftables ip:iproute2
  tc:iproute2 unshare:util-linux fusermount3:fuse3 umoci:umoci mkfs.ext4:e2fsprogs nsenter:util-linux losetup:mount
  gcc:gcc g++:g++ make:make python3:python3'

test_programs='docker-registry:docker-registry redis-server:redis-server htpasswd:apache2-utils skopeo:skopeo openssl:openssl
  chromium:chromium tmux:tmux less:less vim.tiny:vim-tiny top:procps docker-compose:docker-compose'
# Packages that Debian starts with their installation and with each boot; tests and benchmarks start their own.
services='docker-registry redis-server'
bench_programs='podman:podman iperf3:iperf3'

missing_packages () {
  local entry wanted=$programs
  [ "$tests" = no ] || wanted+=" $test_programs"
  [ "$bench" = no ] || wanted+=" $bench_programs"
  for entry in $wanted; do
    command -v "${entry%%:*}" >/dev/null || echo "${entry#*:}"
  done
  # The base image is made of this file alone, so a dynamically linked busybox does not do.
  if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then echo busybox-static; fi
  # What runs inside sandboxes is linked statically.
  if command -v gcc >/dev/null && [ -f "$(gcc -print-file-name=libc.a)" ]; then :; else echo libc6-dev; fi
}

# Fails when mkfs.erofs or gztool is missing or older than 1.8, the first that do what image layers are made with.
image_tools_are_good () {
  local tool
  for tool in 'mkfs.erofs --version' 'gztool -h'; do
    command -v "${tool%% *}" >/dev/null || return 1
    # shellcheck disable=SC2086 # a program and its argument
    [[ $($tool 2>&1) =~ ([0-9]+)\.([0-9]+) ]] || return 1
    [ $((BASH_REMATCH[1] * 1000 + BASH_REMATCH[2])) -ge 1008 ] || return 1
    [ ! -e "$berth_bin/${tool%% *}" ] || grep -qx "# berth image tools $image_tools_stamp" "$berth_bin/${tool%% *}" || return 1
  done
} 2>/dev/null

# Prints the build date (YYYYMMDD) of the runsc on PATH; 0 when there is none.
runsc_date () {
  local date
  date=$(runsc --version 2>/dev/null | grep -oE '20[0-9]{6}' | head -n 1) || true
  echo "${date:-0}"
}

# Fails when apt knows no candidate of that date or later.
apt_has_good_runsc () {
  local date
  date=$(apt-cache madison runsc 2>/dev/null | grep -oE '20[0-9]{6}' | sort -rn | head -n 1) || true
  [ "${date:-0}" -ge "$runsc_minimum" ]
}

apt_updated=no
# A broken third-party source makes this fail though our own packages can be had, so its verdict is not asked.
apt_update () {
  say 'reading the package lists (apt-get update)'
  as_root apt-get -q update -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 \
    -o DPkg::Lock::Timeout=120 >"$log" 2>&1 || note 'some package sources did not answer; going on with the others'
  apt_updated=yes
}

apt_install () {
  say "installing $*"
  as_root apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=120 \
    -o Dpkg::Options::=--force-confold "$@" >"$log" 2>&1
}

# The value of one option (Signed-By, Trusted) of the entry in source file $1 that names mirror $2; empty when unset.
source_option () {
  local file=$1 uri=${2%/} option=$3
  case "$file" in
    *.sources)
      awk -v uri="$uri" -v option="$option:" 'BEGIN { RS = ""; FS = "\n" }
        index($0, uri) { for (i = 1; i <= NF; i++) if (index($i, option) == 1) { sub(/^[^:]*:[ \t]*/, "", $i); print $i; exit } }' "$file" ;;
    *)
      grep -E '^deb ' "$file" | grep -F "$uri" | grep -oiE "[[ ]$option=[^] ]+" | head -n 1 | sed 's/^[^=]*=//' || true ;;
  esac
}

# Finds the mirror this machine uses for its own release, and how its packages are verified: mirror, signed, trusted.
find_mirror () {
  local line entry
  # Asked of apt itself, because sources come in two formats and many files.
  line=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI) $(SOURCESENTRY)' 'Created-By: Packages' |
    grep -E "^$VERSION_CODENAME main " | head -n 1) || true
  [ -n "$line" ] || return 1
  read -r _ _ mirror entry <<<"$line"
  entry=${entry%:*}
  signed=$(source_option "$entry" "$mirror" Signed-By)
  trusted=$(source_option "$entry" "$mirror" Trusted)
  # A key written into the entry itself spans lines; the archive's keyring holds the same one.
  [[ $signed == /* ]] || signed=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -f "$signed" ] || signed=
}

# Adds the backports suite of the mirror this machine uses for its own release.
add_backports () {
  local suite="$VERSION_CODENAME-backports" mirror signed trusted
  find_mirror || fail "apt has no source for '$VERSION_CODENAME main', so its backports cannot be found" \
    "add the Debian mirror to /etc/apt/sources.list.d, then run this again"
  say "adding the package source $suite in $backports_file"
  {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "${mirror%/}" "$suite"
    [ -z "$signed" ] || printf 'Signed-By: %s\n' "$signed"
    [ "$trusted" != yes ] || printf 'Trusted: yes\n'
  } | as_root tee "$backports_file" >/dev/null
}

# Installs the package of a service without having it run, at this moment or at a boot.
install_service () {
  local service=$1 policy=/usr/sbin/policy-rc.d status=0
  # A machine that has a policy keeps it.
  if [ -e "$policy" ]; then
    apt_install "$service" || return
  else
    trap 'as_root rm -f /usr/sbin/policy-rc.d; rm -f "$log"' EXIT
    printf '#!/bin/sh\ncase "$1" in %s*) exit 101 ;; esac\n' "$service" | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    apt_install "$service" || status=$?
    as_root rm -f "$policy"
    trap 'rm -f "$log"' EXIT
    [ "$status" -eq 0 ] || return "$status"
  fi
  if command -v systemctl >/dev/null; then as_root systemctl disable "$service"; else as_root update-rc.d "$service" disable; fi >>"$log" 2>&1 || true
  [ ! -d /run/systemd/system ] || as_root systemctl stop "$service" >>"$log" 2>&1 || true
}

install_packages () {
  local packages=$1
  [ "$apt_updated" = yes ] || apt_update
  local service
  for service in $services; do
    [[ " $packages " == *" $service "* ]] || continue
    install_service "$service" || { tail -n 15 "$log" >&2; fail "apt could not install $service, which the tests need" 'mend what apt says, then run: npm test'; }
    packages=${packages/$service/}
  done
  [ -n "${packages// /}" ] || return 0
  # shellcheck disable=SC2086 # a list of words
  apt_install $packages || {
    tail -n 15 "$log" >&2
    fail 'apt could not install the packages above' "mend what apt says, then run: sudo apt-get install $packages"
  }
}

install_runsc () {
  local how='install runsc of July 2024 or later: https://gvisor.dev/docs/user_guide/install/'
  [ "$apt_updated" = yes ] || apt_update
  if ! apt_has_good_runsc; then
    [ "$ID" = debian ] || fail "this $ID has no runsc (gVisor) that is young enough" "$how"
    add_backports
    apt_update
    apt_has_good_runsc || fail "the mirror of this machine has no runsc (gVisor) in $VERSION_CODENAME-backports" \
      "see what it answers: sudo apt-get update && apt-cache policy runsc" "or $how"
  fi
  local version
  version=$(apt-cache madison runsc | awk '{ print $3 }' | grep -E '20[0-9]{6}' | sort -rV | head -n 1)
  apt_install "runsc=$version" || { tail -n 15 "$log" >&2; fail 'apt could not install runsc' "$how"; }
}

# Without these images are unpacked into directories, so a machine that cannot have them is told so and can be used.
install_image_tools () {
  local problem='' mirror signed trusted
  case "$ID-$VERSION_ID" in
    debian-12)
      say 'installing mkfs.erofs and gztool of Debian 13 in /usr/local/lib/berth'
      if ! find_mirror; then problem="apt has no source for '$VERSION_CODENAME main', whose mirror would have them"
      elif ! as_root bash "$repo/scripts/install-image-tools.sh" "$image_tools_stamp" "$mirror" "$signed" "$trusted" >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        problem='the messages above say why; when apt misses a key, bring it: sudo apt-get install debian-archive-keyring'
      fi ;;
    *)
      [ "$apt_updated" = yes ] || apt_update
      apt_install erofs-utils gztool || { tail -n 5 "$log" >&2; problem='apt could not install erofs-utils and gztool; the messages above say why'; } ;;
  esac
  hash -r
  [ -n "$problem" ] || image_tools_are_good || problem='mkfs.erofs and gztool are installed, and do not start or are older than 1.8'
  [ -n "$problem" ] || return 0
  [ "$tests" = no ] || fail 'the tests need mkfs.erofs and gztool of version 1.8 or later' "$problem"
  say "mkfs.erofs and gztool are not to be had, so images are unpacked before a sandbox starts, not loaded lazily; $problem"
}

# Ubuntu 24.04 has both in versions that are too old, so there is nothing to install.
image_tools_are_settled () {
  image_tools_are_good && return
  case "$ID-$VERSION_ID" in debian-12 | debian-13) return 1 ;; esac
  [ "$tests" = no ] || return 1
  note 'this system has no mkfs.erofs and gztool of version 1.8 or later: images are unpacked before a sandbox starts, not loaded lazily'
}

list_by_hand () {
  fail "this is ${PRETTY_NAME:-an unknown system}; the set-up knows Debian 12, Debian 13 and Ubuntu 24.04. Install by hand:" \
    "conmon >= 2.1, runc, runsc (gVisor) of July 2024 or later, tini (static), catatonit, busybox (static)," \
    'nftables, iproute2, fuse3, umoci, e2fsprogs, util-linux, gcc, g++, make, python3, libc6-dev;' \
    'for images that load lazily erofs-utils >= 1.8 and gztool >= 1.8 (without them images are unpacked);' \
    'for the tests docker-registry, redis-server, htpasswd, skopeo, openssl, chromium, tmux, less, vim.tiny, top, docker-compose; for the benchmarks podman, iperf3' \
    "gVisor: https://gvisor.dev/docs/user_guide/install/   then 'bin/berth doctor' says what is left"
}

host_packages () {
  local packages date
  packages=$(missing_packages | tr '\n' ' ')
  date=$(runsc_date)
  local has_image_tools=yes
  image_tools_are_settled || has_image_tools=no
  if [ -z "$packages" ] && [ "$date" -ge "$runsc_minimum" ] && [ "$has_image_tools" = yes ]; then
    note 'host packages: all there'
    return
  fi
  case "$ID-$VERSION_ID" in debian-12 | debian-13 | ubuntu-24.04) ;; *) list_by_hand ;; esac
  command -v apt-get >/dev/null || list_by_hand
  require_root "$packages$([ "$date" -ge "$runsc_minimum" ] || echo 'runsc ')$([ "$has_image_tools" = yes ] || echo 'mkfs.erofs gztool')"
  log=$(mktemp); trap 'rm -f "$log"' EXIT
  [ -z "$packages" ] || install_packages "$packages"
  [ "$date" -ge "$runsc_minimum" ] || install_runsc
  [ "$has_image_tools" = yes ] || install_image_tools
  hash -r
  packages=$(missing_packages | tr '\n' ' ')
  [ -z "$packages" ] || fail "apt installed its packages, and these are still not to be found: $packages" "see: bin/berth doctor"
  [ "$(runsc_date)" -ge "$runsc_minimum" ] || fail "runsc on PATH ($(command -v runsc)) is older than July 2024" \
    'remove that one, then run this again'
  say 'host packages: installed'
}

# ---- host settings --------------------------------------------------------------------------------------

sysctl_file=/etc/sysctl.d/90-berth.conf

# The lines of $sysctl_file. Paths with slashes: names of devices may have dots in them.
host_settings () {
  local device value
  echo '# Written by the set-up of Berth: this host passes on what its sandboxes send.'
  echo 'net/ipv4/ip_forward = 1'
  [ -e /proc/sys/net/ipv6/conf/all/forwarding ] || return 0
  # Before forwarding: a host that forwards drops the default route that a router announced, unless told to listen all the same.
  for device in $(ip -6 route show default proto ra | grep -oE 'dev [^ ]+' | cut -d ' ' -f 2 | sort -u); do
    value=$(cat "/proc/sys/net/ipv6/conf/$device/accept_ra")
    # 0: a program listens in the place of the kernel.
    [ "$value" = 0 ] || echo "net/ipv6/conf/$device/accept_ra = 2"
  done
  echo 'net/ipv6/conf/all/forwarding = 1'
}

configure_host () {
  local settings path value is_done=yes
  settings=$(host_settings)
  [ "$(cat "$sysctl_file" 2>/dev/null)" = "$settings" ] || is_done=no
  while IFS=' =' read -r path value; do
    [[ $path == net/* ]] || continue
    [ "$(cat "/proc/sys/$path")" = "$value" ] || is_done=no
  done <<<"$settings"
  if [ "$is_done" = yes ]; then
    note 'host settings: all as they should be'
    return
  fi
  require_root "$sysctl_file"
  say "having the host forward packets, by $sysctl_file"
  as_root mkdir -p "${sysctl_file%/*}"
  as_root tee "$sysctl_file" <<<"$settings" >/dev/null
  while IFS=' =' read -r path value; do
    [[ $path == net/* ]] || continue
    as_root tee "/proc/sys/$path" <<<"$value" >/dev/null || fail "$path cannot be set on this host" 'in a container set it on the host below'
    note "  $path = $value"
  done <<<"$settings"
}

# ---- npm ------------------------------------------------------------------------------------------------

# Fails when npm has not installed what package-lock.json says.
npm_is_current () {
  local stamp="$repo/node_modules/.package-lock.json"
  [ -f "$stamp" ] || return 1
  # npm writes both files in one go, in no certain order: a couple of seconds mean nothing.
  [ "$(stat -c %Y "$repo/package-lock.json")" -le $(($(stat -c %Y "$stamp") + 2)) ]
}

node_arch () { case "$(uname -m)" in aarch64) echo arm64 ;; *) echo x64 ;; esac; }

npm_packages () {
  if npm_is_current; then
    note 'npm packages: all there'
    return
  fi
  command -v npm >/dev/null || fail 'npm is not here' 'install Node.js with npm (any version from 20 on): sudo apt-get install npm'
  say 'installing npm packages (npm ci)'
  # What is compiled here finds the headers of the Node that runs it, without the network.
  (cd "$repo" && npm_config_nodedir="$repo/node_modules/node-linux-$(node_arch)" npm ci --no-audit --no-fund --loglevel=error) ||
    fail 'npm ci did not end well' 'look at the message above; when the registry was out of reach, run this again'
  touch "$repo/node_modules/.package-lock.json"
}

host_packages
[ "$configure" = no ] || configure_host
npm_packages
"$repo/bin/node24" "$repo/scripts/build.ts" $([ "$quiet" = no ] || echo --quiet) || fail 'what is built ahead could not be built' 'the messages above say why'
note 'ready'
