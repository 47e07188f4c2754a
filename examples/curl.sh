#!/bin/sh
# A sandbox's life with nothing but curl, over the unix socket (as root; it needs no token).
#   BERTH_SOCKET=/run/berth/berth.sock examples/curl.sh
set -eu
socket=${BERTH_SOCKET:-/run/berth/berth.sock}
api=http://berth/v1 # over a unix socket the host name means nothing

# call METHOD PATH [JSON]: prints the answer; a refused request shows its error and ends the tour.
call () {
  if [ $# -gt 2 ]; then set -- "$1" "$2" --json "$3"; fi
  method=$1 path=$2
  shift 2
  curl --silent --show-error --fail-with-body --unix-socket "$socket" -X "$method" "$@" "$api$path"
  echo
}

# The id at the front of an answer; a real program has a JSON parser.
id_of () { sed -n 's/^{"id":"\([a-z0-9_]*\)".*/\1/p'; }

step () { printf '\n# %s\n' "$1"; }

step 'a sandbox that idles, ready for execs; the answer comes when it runs'
id=$(call POST /sandboxes '{"image": "berth/base", "labels": {"tour": "curl"}, "timeoutMs": 600000}' | id_of)
[ -n "$id" ] || { echo 'no sandbox was created' >&2; exit 1; }
trap 'call DELETE "/sandboxes/$id?force=true"' EXIT
trap 'exit 130' INT TERM
echo "$id"

step 'an attached exec: the answer is the result'
call POST "/sandboxes/$id/execs" '{"argv": ["sh", "-c", "echo hello from $(uname -s); exit 3"]}'

step 'the same, streamed: a record for each piece of output, as it comes'
call POST "/sandboxes/$id/execs?format=ndjson" '{"argv": ["sh", "-c", "for i in 1 2 3; do echo line $i; done"]}'

step 'a detached exec: a resource with a status, a log and an exit code'
exec=$(call POST "/sandboxes/$id/execs" '{"argv": ["sh", "-c", "echo working; sleep 1; echo done"], "detach": true}' | id_of)
echo "$exec"

step 'its log, followed to its end'
call GET "/sandboxes/$id/execs/$exec/logs?follow=true&format=text"

step 'frozen, and let go on'
call POST "/sandboxes/$id/pause" | grep -o '"status":"[a-z]*"'
call POST "/sandboxes/$id/resume" | grep -o '"status":"[a-z]*"'

step 'every sandbox with this label'
call GET '/sandboxes?label=tour=curl' | grep -o '"id":"[a-z0-9_]*"'

step 'a wrong request says what is wrong'
call POST /sandboxes '{"image": "berth/base", "memory": 64}' || true

step 'stopped: SIGTERM to all, SIGKILL after the grace; then the trap at the top deletes it'
call POST "/sandboxes/$id/stop" '{"graceMs": 2000}' | grep -o '"status":"[a-z]*"'
