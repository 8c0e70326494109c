#!/usr/bin/env bash
# What curl reads, one line of JSON an event.
# usage: curl.sh URL TOKEN
set -u
cursor='' wait=1

while :; do
  event='' id='' data=''
  while IFS= read -r line; do
    case $line in
      event:*) event=${line#event: } ;;
      id:*) id=${line#id: } ;;
      data:*) data=${line#data: } ;;
      retry:*) wait=$((${line#retry: } / 1000 + 1)) ;;
      '')
        cursor=${id:-$cursor}
        data=${data//\\/\\\\}
        printf '{"event":"%s","id":"%s","data":"%s"}\n' "$event" "$cursor" "${data//\"/\\\"}"
        event='' id='' data=''
        ;;
    esac
  done < <(curl -sN -H "Authorization: Bearer $2" -H 'Accept: text/event-stream' \
    ${cursor:+-H "Last-Event-ID: $cursor"} "$1")
  sleep "$wait"
done
