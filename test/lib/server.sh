# shellcheck shell=bash
# test/lib/server.sh: the sandbox's own server, on a Unix socket alone.
# Sourced by what runs inside test/lib/sandbox.

# server_start [SETTING=VALUE]...: makes a cluster, starts it, and points
# psql and the like to it.  The server log is $SANDBOX/server.log.
server_start()
{
	local setting

	export PGHOST="$SANDBOX/tmp" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
	export PGDATA="$SANDBOX/data"
	initdb --no-sync --no-locale --encoding=UTF8 --auth=trust --username=postgres \
		>"$SANDBOX/initdb.log" 2>&1 || { cat "$SANDBOX/initdb.log"; return 1; }
	cat >>"$PGDATA/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$PGHOST'
		port = $PGPORT
		shared_preload_libraries = 'ledger'
		max_prepared_transactions = 10
		fsync = off
		log_line_prefix = '%m [%p] %q%a '
		log_min_messages = warning
	CONF
	for setting; do
		printf "%s = '%s'\n" "${setting%%=*}" "${setting#*=}" >>"$PGDATA/postgresql.conf"
	done
	if ! pg_ctl start --wait --silent --timeout=300 --log="$SANDBOX/server.log" \
		${LEDGER_VALGRIND:+-p "$LEDGER_VALGRIND"} >/dev/null; then
		tail -n 50 "$SANDBOX/server.log"
		return 1
	fi
	trap server_stop EXIT
}

server_stop()
{
	trap - EXIT
	[ ! -e "$PGDATA/postmaster.pid" ] || pg_ctl stop --silent --mode=fast
}
