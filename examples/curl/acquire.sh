#!/bin/sh
# Takes quota from a shell: each line waits its turn among all who ask for the
# key, then it is spent.
#
#	choked serve &
#	CHOKED_URL=http://127.0.0.1:7980 sh acquire.sh
set -eu

url=${CHOKED_URL:-http://127.0.0.1:7980}
limits='request_limit=5/s burst 2'

for i in 1 2 3 4; do
	curl --silent --show-error --fail-with-body --max-time 60 \
		--header "Authorization: Bearer ${CHOKED_TOKEN:-}" \
		--data-urlencode key=curl --data-urlencode "$limits" --data-urlencode wait=30s \
		"$url/v1/acquire"
	echo "call $i may go"
done

# More than can be had at once, and no patience: status 429, and when to come again.
for i in 1 2; do
	curl --silent --output /dev/null --write-out 'status %{http_code}, retry after "%header{retry-after}"\n' --max-time 60 \
		--header "Authorization: Bearer ${CHOKED_TOKEN:-}" \
		--get --data-urlencode key=impatient --data-urlencode 'request_limit=1/m burst 2' \
		--data-urlencode requests=2 --data-urlencode wait=0 \
		"$url/v1/acquire"
done
