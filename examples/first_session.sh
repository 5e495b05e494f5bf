#!/bin/sh
# A first session with netcat and jq: make one, save in it, get it back, close it.
#
#     examples/first_session.sh [HOST [PORT]]
#
# Without arguments it asks the server that STUI_SESSIONS_HOST, _PORT and _UNIX name, or else the settings file
# in STUI_SESSIONS_CONFIG.
set -eu

# in_file NAME: what the settings file says of NAME, if there is one.
in_file() {
    [ -z "${STUI_SESSIONS_CONFIG:-}" ] ||
        sed -n "s/^ *$1 *= *\([0-9][0-9]*\).*/\1/p; s/^ *$1 *= *\([\"']\)\(.*\)\1.*/\2/p" "$STUI_SESSIONS_CONFIG"
}

unix=
if [ $# = 0 ]; then
    if [ -n "${STUI_SESSIONS_UNIX+set}${STUI_SESSIONS_HOST+set}${STUI_SESSIONS_PORT+set}" ]; then
        unix=${STUI_SESSIONS_UNIX:-}
    else
        unix=$(in_file unix)
    fi
fi
host=${1:-${STUI_SESSIONS_HOST:-$(in_file host)}}
port=${2:-${STUI_SESSIONS_PORT:-$(in_file port)}}

for tool in nc jq; do
    command -v "$tool" >/dev/null || { echo "$0 needs $tool" >&2; exit 2; }
done

# netcat must end the connection after our line. How to say so differs between its versions.
if nc -h 2>&1 | grep -q -e '-N'; then
    quit='-N'
elif nc -h 2>&1 | grep -q -e '-q'; then
    quit='-q 1'
else
    quit='-w 2'
fi

if [ -n "$unix" ]; then
    server=$unix
    send() { nc $quit -U "$unix"; }
else
    server="${host:=127.0.0.1} port ${port:=7884}"
    send() { nc $quit "$host" "$port"; }
fi

# ask COMMAND PARAMETERS: one request; prints its result, or the error on stderr.
ask() {
    reply=$(jq -cn --arg command "$1" --argjson parameters "$2" '{id: 1, $command, $parameters}' |
        send) || true
    if [ -z "$reply" ]; then
        echo "no answer from $server: is the server running?" >&2
        return 2
    fi
    if [ "$(printf '%s\n' "$reply" | jq -r .status)" != success ]; then
        printf '%s\n' "$reply" | jq -r '"\(.error_type) \(.error_code): \(.error)"' >&2
        return 1
    fi
    printf '%s\n' "$reply" | jq -c .result
}

# with_session MEMBERS: parameters for our session.
with_session() {
    jq -cn --arg session_id "$session" "{\$session_id} + $1"
}

created=$(ask create_session '{"client_id": "first-session"}')
session=$(printf '%s\n' "$created" | jq -r .session_id)
echo "a new session: $session"

ask update_session_state "$(with_session '{state_data: {file: "notes.txt", line: 12}}')" >/dev/null
ask update_session_state "$(with_session '{state_data: {line: 13}}')" >/dev/null
echo "saved twice"

restored=$(ask restore_session "$(with_session '{}')")
printf 'restored: %s at revision %s\n' \
    "$(printf '%s\n' "$restored" | jq -c .session_state)" "$(printf '%s\n' "$restored" | jq .revision)"

ask close_session "$(with_session '{}')" >/dev/null
echo "closed; restoring it now is an error:"
ask restore_session "$(with_session '{}')" || true
