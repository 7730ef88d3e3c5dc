#!/bin/sh
# Asks registry-quota before a build whether there is room, and makes it make some.
#
#   RQ_API_URL, RQ_API_TOKEN   the API and a token with the scope `hook`
#   RQ_WORKSPACE, RQ_APP       what the image counts for; as they are written
#   RQ_REPOSITORY              instead of both: the image's name, such as registry.example.com/acme/api. In lower
#                              case its first part is the workspace, the rest is the app. Where none of the three
#                              is set, GitLab's CI_REGISTRY_IMAGE or CI_PROJECT_PATH, or GITHUB_REPOSITORY
#   RQ_BUILD_ID                optional: by it the incoming bytes are reserved for an hour
#   RQ_RUN_ID                  instead of it: the pipeline's; each app of a run then has a build id of its own
#   RQ_INCOMING_BYTES          optional: about how much the build is going to push
#   RQ_TIMEOUT                 seconds that one answer may take (60)
#   RQ_FAIL                    `open` (the default): without an answer the build goes on; `closed`: it stops
#   RQ_WAIT                    seconds to go on asking while there is no answer (0; with `closed` 60)
#   RQ_CA_FILE                 PEM file of the authority that signed the API's certificate, if it is your own
#
# Exits 1 only when the answer is `deny` (a strict workspace without room). Whatever else goes wrong
# never stops a build: it is said, and the exit code is 0. With RQ_FAIL=closed it is 3, and an answer by
# which the quota could not be checked is none. 2: RQ_FAIL is neither of the two.
set -u

say() { printf 'registry-quota: %s\n' "$1"; }

# Where GitHub shows what is said. Takes warning or error.
marked() { if [ "${GITHUB_ACTIONS:-}" = true ]; then printf '::%s title=registry-quota::' "$1"; fi; }

unchecked() {
  if [ "$fail" = closed ]; then
    marked error
    say "the quota was not checked, and RQ_FAIL=closed stops the build: $1"
    exit 3
  fi
  marked warning
  say "the quota was not checked, the build goes on: $1"
  exit 0
}

# A JSON string of a text. Control characters have no place in a name; the API would refuse them too.
quoted() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037\177' | sed 's/[\\"]/\\&/g')"; }

# An answer's values, one a line: where it stands, a space, the value as JSON has it.
#   .cleanup.images.0.why "deleted: 4th newest"
leaves() {
  LC_ALL=C grep -o -E '"([^"\\]|\\.)*"|[][{}:,]|[^][{}:,"[:space:]]+' | LC_ALL=C awk '
    function leaf(value,  level, path) {
      for (level = 1; level <= depth; level++) path = path "." at[level]
      print path " " value
    }
    $0 == "{" { depth++; at[depth] = ""; named[depth] = 1; key = 1; next }
    $0 == "[" { depth++; at[depth] = 0; named[depth] = 0; key = 0; next }
    $0 == "}" || $0 == "]" { depth--; next }
    $0 == "," { if (named[depth]) key = 1; else at[depth]++; next }
    $0 == ":" { key = 0; next }
    key { at[depth] = substr($0, 2, length($0) - 2); next }
    { leaf($0) }'
}

# The text, number or word that stands there; nothing where nothing does. What stands there is for sed: `\.a\.b`.
value_of() {
  printf '%s\n' "$answer" | sed -n -E "s/^$1 //p" | sed -E -e 's/^"(.*)"$/\1/' -e 's/\\(["\\/])/\1/g'
}

# How many lines match.
count_of() { printf '%s\n' "$answer" | grep -c -E "$1"; }

# `1 image`, `2 images`
counted() { if [ "$1" -eq 1 ]; then printf '1 image'; else printf '%s images' "$1"; fi; }

fail=${RQ_FAIL:-open}
case $fail in
  open) wait=${RQ_WAIT:-0} ;;
  closed) wait=${RQ_WAIT:-60} ;;
  *)
    marked error
    say "RQ_FAIL must be open or closed, not '$fail': whether this build may go on is not known, so it stops"
    exit 2
    ;;
esac
timeout=${RQ_TIMEOUT:-60}
[ -n "${RQ_API_URL:-}" ] || unchecked "RQ_API_URL is not set"
[ -n "${RQ_API_TOKEN:-}" ] || unchecked "RQ_API_TOKEN is not set"
case $timeout in '' | *[!0-9]* | 0*) unchecked "RQ_TIMEOUT must be whole seconds, not '$timeout'" ;; esac
case $wait in 0) ;; *[!0-9]* | 0* | ??????*) unchecked "RQ_WAIT must be whole seconds, not '$wait'" ;; esac
case ${RQ_INCOMING_BYTES:-} in *[!0-9]*) unchecked "RQ_INCOMING_BYTES must be a number, not '$RQ_INCOMING_BYTES'" ;; esac
command -v awk >/dev/null 2>&1 || unchecked "awk is not installed here"
command -v curl >/dev/null 2>&1 || unchecked "curl is not installed here"
# JSON has no numbers with zeros in front.
incoming=$(printf '%s' "${RQ_INCOMING_BYTES:-}" | sed 's/^0*\(.\)/\1/')

# Registries take lower case alone, so that is what an image is pushed to, however its project is written.
image=${RQ_REPOSITORY:-${CI_REGISTRY_IMAGE:-}}
case $image in
  "${CI_REGISTRY:-/}"/*) image=${image#"$CI_REGISTRY"/} ;;
  # As in every reference to an image: the first part is a host when it has a dot or a port.
  */*) case ${image%%/*} in *.* | *:* | localhost) image=${image#*/} ;; esac ;;
esac
image=${image%%@*}
repository=$(printf '%s' "${image:-${CI_PROJECT_PATH:-${GITHUB_REPOSITORY:-}}}" | LC_ALL=C tr 'A-Z' 'a-z')
repository=${repository%%:*}
workspace=${RQ_WORKSPACE:-${repository%%/*}}
[ -n "$workspace" ] || unchecked "RQ_WORKSPACE is not set"
app=${RQ_APP:-}
if [ -z "$app" ]; then
  case $repository in "$workspace"/?*) app=${repository#"$workspace"/} ;; esac
fi
build=${RQ_BUILD_ID:-${RQ_RUN_ID:+$RQ_RUN_ID-$app}}

body="{\"workspace\": $(quoted "$workspace"), \"timeout_s\": $timeout"
[ -z "$app" ] || body="$body, \"app\": $(quoted "$app")"
[ -z "$build" ] || body="$body, \"build_id\": $(quoted "$build")"
[ -z "$incoming" ] || body="$body, \"incoming_bytes\": $incoming"
body="$body}"

# One question. Sets `answer`, `decision` and `reason`; or `trouble`, why the quota is not checked, which
# `lasts` where asking again would not help.
ask() {
  trouble='' lasts='' decision='' reason=''
  # The token goes in by standard input: arguments are there for everybody on the machine to see.
  answer=$(printf 'header = "Authorization: Bearer %s"\n' "$RQ_API_TOKEN" |
    curl --silent --show-error --config - --connect-timeout 5 --max-time "$((timeout + 5))" \
      ${RQ_CA_FILE:+--cacert} ${RQ_CA_FILE:+"$RQ_CA_FILE"} \
      --header 'Content-Type: application/json' --data "$body" --write-out '\n%{http_code}' \
      "${RQ_API_URL%/}/v1/hooks/pre-build" 2>&1)
  code=$?
  if [ "$code" -ne 0 ]; then
    trouble=$(printf '%s' "$answer" | grep '^curl:' | head -n 1)
    trouble=${trouble:-curl ended with $code}
    # No such protocol, no address, an authority that is not trusted or not there.
    case $code in 1 | 2 | 3 | 60 | 77) lasts=yes ;; esac
    return
  fi
  status=${answer##*
}
  answer=$(printf '%s' "${answer%
*}" | leaves)
  if [ "$status" != 200 ]; then
    detail=$(value_of '\.detail')
    trouble="the API answered $status${detail:+: $detail}"
    # What it does not say itself is said by something in front of it.
    case $status in 408 | 429 | 5??) ;; *) [ -z "$detail" ] || lasts=yes ;; esac
    return
  fi
  decision=$(value_of '\.decision')
  reason=$(value_of '\.reason')
  case $decision in
    proceed | deny) [ "$reason" != check_failed ] || trouble=$(value_of '\.message') ;;
    *) decision='' trouble="something other than registry-quota answers at $RQ_API_URL" ;;
  esac
}

began=$(date +%s)
pause=1
ask
while [ -n "$trouble" ] && [ -z "$lasts" ]; do
  left=$((began + wait - $(date +%s)))
  [ "$left" -gt 0 ] || break
  [ "$pause" -le "$left" ] || pause=$left
  say "asking again in $pause s: $trouble"
  sleep "$pause"
  pause=$((pause < 8 ? pause * 2 : 10))
  ask
done
# An advisory workspace goes on although it could not be checked; not where its owner wants it closed.
if [ -n "$trouble" ]; then
  case $fail.$decision in *. | closed.proceed) unchecked "$trouble" ;; esac
fi

say "$decision ($reason)"
say "$(value_of '\.message')"
# What went along with an image (an index's children, a signature) is a part of it.
images=$(($(count_of '^\.cleanup\.images\.[0-9]+\.digest ') -
  $(count_of '^\.cleanup\.images\.[0-9]+\.code "goes_with_')))
[ "$images" -eq 0 ] || say "cleanup deleted $(counted "$images")"
pulled=$(count_of '^\.cleanup\.spared\.[0-9]+\.code "pulled_meanwhile"')
[ "$pulled" -eq 0 ] || say "$(counted "$pulled") kept because pulled meanwhile"
failed=$(count_of '^\.cleanup\.failed\.[0-9]+\.digest ')
[ "$failed" -eq 0 ] || say "$(counted "$failed") could not be deleted"
value_of '\.warnings\.[0-9]+' | while IFS= read -r warning; do say "warning: $warning"; done
if [ -n "${GITHUB_OUTPUT:-}" ]; then
  printf 'decision=%s\nreason=%s\n' "$decision" "$reason" >>"$GITHUB_OUTPUT"
fi
[ "$decision" != deny ] || exit 1
