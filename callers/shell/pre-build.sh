#!/bin/sh
# Asks registry-quota before a build whether there is room, and makes it make some.
#
#   RQ_API_URL, RQ_API_TOKEN   the API and a token with the scope `hook`
#   RQ_WORKSPACE               required
#   RQ_APP, RQ_BUILD_ID        optional; with a build id the incoming bytes are reserved for an hour
#   RQ_INCOMING_BYTES          optional: about how much the build is going to push
#   RQ_TIMEOUT                 seconds that this may take (60)
#   RQ_CA_FILE                 PEM file of the authority that signed the API's certificate, if it is your own
#
# Exits 1 only when the answer is `deny` (a strict workspace without room). Whatever else goes wrong
# never stops a build: it is said, and the exit code is 0.
set -u

say() { printf 'registry-quota: %s\n' "$1"; }

unchecked() {
  if [ "${GITHUB_ACTIONS:-}" = true ]; then printf '::warning title=registry-quota::'; fi
  say "the quota was not checked, the build goes on: $1"
  exit 0
}

# A JSON string of a text. Control characters have no place in a name; the API would refuse them too.
quoted() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037\177' | sed 's/[\\"]/\\&/g')"; }

# The text, number or word of a key that is in the answer once.
text_of() { printf '%s' "$answer" | sed -n -E 's/.*"'"$1"'": ?"(([^"\\]|\\.)*)".*/\1/p' | sed 's/\\\(["\\/]\)/\1/g'; }
number_of() { printf '%s' "$answer" | sed -n -E 's/.*"'"$1"'": ?([0-9]+).*/\1/p'; }

timeout=${RQ_TIMEOUT:-60}
[ -n "${RQ_API_URL:-}" ] || unchecked "RQ_API_URL is not set"
[ -n "${RQ_API_TOKEN:-}" ] || unchecked "RQ_API_TOKEN is not set"
[ -n "${RQ_WORKSPACE:-}" ] || unchecked "RQ_WORKSPACE is not set"
case $timeout in '' | *[!0-9]* | 0*) unchecked "RQ_TIMEOUT must be whole seconds, not '$timeout'" ;; esac
case ${RQ_INCOMING_BYTES:-} in *[!0-9]*) unchecked "RQ_INCOMING_BYTES must be a number, not '$RQ_INCOMING_BYTES'" ;; esac
# JSON has no numbers with zeros in front.
incoming=$(printf '%s' "${RQ_INCOMING_BYTES:-}" | sed 's/^0*\(.\)/\1/')
command -v curl >/dev/null 2>&1 || unchecked "curl is not installed here"

body="{\"workspace\": $(quoted "$RQ_WORKSPACE"), \"timeout_s\": $timeout"
[ -z "${RQ_APP:-}" ] || body="$body, \"app\": $(quoted "$RQ_APP")"
[ -z "${RQ_BUILD_ID:-}" ] || body="$body, \"build_id\": $(quoted "$RQ_BUILD_ID")"
[ -z "$incoming" ] || body="$body, \"incoming_bytes\": $incoming"
body="$body}"

# The token goes in by standard input: arguments are there for everybody on the machine to see.
answer=$(printf 'header = "Authorization: Bearer %s"\n' "$RQ_API_TOKEN" |
  curl --silent --show-error --config - --connect-timeout 5 --max-time "$((timeout + 5))" \
    ${RQ_CA_FILE:+--cacert} ${RQ_CA_FILE:+"$RQ_CA_FILE"} \
    --header 'Content-Type: application/json' --data "$body" --write-out '\n%{http_code}' \
    "${RQ_API_URL%/}/v1/hooks/pre-build" 2>&1) || unchecked "$(printf '%s' "$answer" | grep '^curl:' | head -n 1)"

status=${answer##*
}
answer=${answer%
*}
if [ "$status" != 200 ]; then
  detail=$(text_of detail)
  unchecked "the API answered $status${detail:+: $detail}"
fi

decision=$(text_of decision)
case $decision in
  proceed | deny) ;;
  *) unchecked "something other than registry-quota answers at $RQ_API_URL" ;;
esac

say "$decision ($(text_of reason))"
say "$(text_of message)"
images=$(printf '%s' "$answer" | grep -o '"why":' | grep -c .)
[ "$images" -eq 0 ] || say "cleanup deleted $images images"
warnings=$(printf '%s' "$answer" | sed -n -E 's/.*"warnings": ?\[([^]]+)\].*/\1/p' | tr -d '"')
[ -z "$warnings" ] || say "warnings: $warnings"
if [ -n "${GITHUB_OUTPUT:-}" ]; then
  printf 'decision=%s\nreason=%s\n' "$decision" "$(text_of reason)" >>"$GITHUB_OUTPUT"
fi
[ "$decision" != deny ] || exit 1
