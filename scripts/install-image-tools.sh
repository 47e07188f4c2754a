#!/usr/bin/env bash
# Puts mkfs.erofs and gztool of Debian 13 into a private prefix, for hosts whose own are too old (Debian 12). Run as root.
#
#   /usr/local/lib/berth/image-tools-<stamp>.<random>/   the unpacked packages, with the libraries they need
#   /usr/local/lib/berth/bin/{mkfs.erofs,gztool}         start them through the prefix's own ld.so
#
# The packages are fetched and verified by apt with a configuration, lists and a status of its own, so the machine's apt
# never learns of Debian 13, and nothing outside the prefix changes. What an earlier version of this script left is replaced.
#   scripts/install-image-tools.sh STAMP MIRROR [SIGNED-BY] [TRUSTED]
set -euo pipefail

stamp=$1 mirror=$2 signed=${3:-} trusted=${4:-}
suite=trixie
home=/usr/local/lib/berth
export LC_ALL=C
umask 022

fail () { echo "$1" >&2; exit 1; }

arch=$(dpkg --print-architecture)
case "$arch" in
  amd64) libraries=usr/lib/x86_64-linux-gnu loader=ld-linux-x86-64.so.2 ;;
  arm64) libraries=usr/lib/aarch64-linux-gnu loader=ld-linux-aarch64.so.1 ;;
  *) fail "there are no image tools for $arch" ;;
esac

mkdir -p "$home/bin"
# One run at a time; the directory itself is the lock file.
exec 9<"$home"
flock 9
work=$(mktemp -d "$home/.work.XXXXXX")
prefix=
trap 'rm -rf "$work" ${prefix:+"$prefix"}' EXIT
# apt downloads as a user of its own.
chmod 755 "$work"
mkdir -p "$work"/{state/lists,cache/archives,preferences,root}
: >"$work/state/status"
{
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: %s\nTargets: Packages\n' "${mirror%/}" "$suite" "$arch"
  [ -z "$signed" ] || printf 'Signed-By: %s\n' "$signed"
  [ "$trusted" != yes ] || printf 'Trusted: yes\n'
} >"$work/image-tools.sources"

# Given on the command line, where it wins over the machine's files; what those say of proxies still holds.
private_apt () {
  apt-get -q -o "Dir::State=$work/state" -o "Dir::State::status=$work/state/status" -o "Dir::Cache=$work/cache" \
    -o "Dir::Etc::sourcelist=$work/image-tools.sources" -o Dir::Etc::sourceparts=- \
    -o "Dir::Etc::preferences=$work/none" -o "Dir::Etc::preferencesparts=$work/preferences" -o "Dir::Log=$work" \
    -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o "APT::Default-Release=$suite" "$@"
}

private_apt update -o APT::Update::Error-Mode=any || fail "the lists of $suite could not be read from the mirror of this machine"
private_apt install -y --no-install-recommends --download-only erofs-utils gztool || fail "the packages could not be fetched from $suite"
for package in "$work"/cache/archives/*.deb; do dpkg-deb -x "$package" "$work/root"; done

prefix=$(mktemp -d "$home/image-tools-$stamp.XXXXXX")
chmod 755 "$prefix"
mv "$work/root/usr" "$prefix/usr"
for tool in mkfs.erofs gztool; do
  [ -x "$prefix/usr/bin/$tool" ] || fail "$suite has no program $tool where it is looked for"
  cat >"$work/$tool" <<WRAPPER
#!/bin/sh
# berth image tools $stamp
lib=$prefix/$libraries
exec "\$lib/$loader" --inhibit-cache --library-path "\$lib" "$prefix/usr/bin/$tool" "\$@"
WRAPPER
  chmod 755 "$work/$tool"
done
"$work/mkfs.erofs" --version >/dev/null && "$work/gztool" -h >/dev/null 2>&1 || fail 'the unpacked programs do not start on this machine'
# From here on the prefix is in use: each rename replaces a wrapper as a whole.
kept=$prefix prefix=
for tool in mkfs.erofs gztool; do mv -f "$work/$tool" "$home/bin/$tool"; done
# What is running out of an older prefix keeps its open files.
for old in "$home"/image-tools-*; do [ "$old" = "$kept" ] || rm -rf "$old"; done
