#!/bin/sh
# Puts rxl in xl's place for domains that come in, and leaves everything else to xl: for sources that run plain
# `xl migrate DOMAIN HOST`. To be installed as `xl` where root's PATH has it before xl itself, such as /usr/local/sbin/xl.
for word; do
    case $word in
    migrate-receive) exec rxl "$@" ;;
    -*) ;;
    *) break ;;
    esac
done
exec /usr/sbin/xl "$@"
