#!/bin/sh
# Acquires quota from a shell. Each call waits in one queue with all other calls for
# the key, and then spends its cost.
#
#	choked serve &
#	CHOKED_URL=http://127.0.0.1:7980 sh acquire.sh
set -eu

url=${CHOKED_URL:-http://127.0.0.1:7980}
limits='limits=requests 5/s burst 2; input 10000/m'

for i in 1 2 3 4; do
	curl --silent --show-error --fail-with-body --max-time 60 \
		--header "Authorization: Bearer ${CHOKED_TOKEN:-}" \
		--data-urlencode key=curl --data-urlencode "$limits" --data-urlencode 'cost=input 900' --data-urlencode wait=30s \
		"$url/v2/acquire"
	echo "call $i may go"
done

# With wait=0 a call that cannot be granted is refused: status 429 with Retry-After.
for i in 1 2; do
	curl --silent --output /dev/null --write-out 'status %{http_code}, retry after "%header{retry-after}"\n' --max-time 60 \
		--header "Authorization: Bearer ${CHOKED_TOKEN:-}" \
		--get --data-urlencode key=impatient --data-urlencode 'request_limit=1/m burst 2' \
		--data-urlencode requests=2 --data-urlencode wait=0 \
		"$url/v2/acquire"
done
