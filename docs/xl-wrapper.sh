#!/bin/sh
# Receives domains with rxl and leaves every other command to xl, for sources that run plain
# `xl migrate DOMAIN HOST`. Install it as `xl` where root's PATH has it before xl itself, such as
# /usr/local/sbin/xl.
for word; do
    case $word in
    migrate-receive) exec rxl "$@" ;;
    -*) ;;
    *) break ;;
    esac
done
exec /usr/sbin/xl "$@"
