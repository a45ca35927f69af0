# shellcheck shell=bash
# test/lib/host.sh: what test/lib/sandbox does on the host: packages, the
# throwaway directory, private copies of the tree and of PostgreSQL.
# Sourced; sets the caller's $sandbox, uses its $owner.

say()
{
	printf '== %s\n' "$*" >&2
}

die()
{
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# Installs those of the named Debian packages that are missing.
install_packages()
{
	local missing=() package sudo= log

	if ! command -v dpkg-query >/dev/null; then
		say "not a Debian system: expecting $* or their like to be here"
		return
	fi
	for package in "$@"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
			missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0

	say "installing ${missing[*]}"
	if [ "$(id -u)" -ne 0 ]; then
		sudo=$(command -v sudo) ||
			die "root is needed once: apt-get install --no-install-recommends ${missing[*]}"
	fi
	log=$(mktemp)
	if ! { $sudo apt-get -q update && $sudo env DEBIAN_FRONTEND=noninteractive \
		apt-get -q -y --no-install-recommends install "${missing[@]}"; } >"$log" 2>&1; then
		tail -n 30 "$log" >&2
		rm -f "$log"
		die "could not install ${missing[*]}"
	fi
	rm -f "$log"
}

# The files of the named Debian packages, in debian/ of the sandbox, but of those
# that are installed. What cannot be had is missed by the test that needs it.
unpack_packages()
{
	local missing=() package sudo= log=$sandbox/unpack.log

	command -v dpkg-deb >/dev/null || return 0
	for package in "$@"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
			missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	[ "$(id -u)" -eq 0 ] || sudo=$(command -v sudo) || true
	mkdir "$sandbox/debian"
	(
		cd "$sandbox/debian"
		apt-get -q download "${missing[@]}" || { $sudo apt-get -q update && apt-get -q download "${missing[@]}"; }
		for package in ./*.deb; do
			dpkg-deb -x "$package" .
		done
		rm ./*.deb
	) >"$log" 2>&1 || { tail -n 10 "$log" >&2; say "could not download ${missing[*]}"; }
}

# A directory of our own, with a path short enough for a Unix socket in it.
make_sandbox()
{
	local base=${TMPDIR:-/tmp}

	[ ${#base} -le 40 ] && [ -d "$base" ] || base=/tmp
	if [ "$(id -u)" -eq 0 ] && ! as_user "$owner" test -x "$base"; then
		base=/tmp
	fi
	sandbox=$(mktemp -d "$base/ledger.XXXXXX")
	mkdir "$sandbox/tmp"
}

# The processes of the sandbox: those it is in the environment of, and its
# servers, whose environment cannot be read.
sandbox_processes()
{
	local file pid

	grep -lszxF "SANDBOX=$sandbox" /proc/[0-9]*/environ | cut -d/ -f3
	find "$sandbox" -name postmaster.pid 2>/dev/null | while read -r file; do
		pid=$(head -n 1 "$file")
		case $(readlink "/proc/$pid/exe") in
			"$sandbox"/*) echo "$pid" ;;
		esac
	done
}

# Ends what still runs in the sandbox, then removes it all.
remove_sandbox()
{
	local pids signal

	set +e
	trap '' INT TERM HUP
	for signal in QUIT QUIT KILL KILL; do
		pids=$(sandbox_processes)
		[ -n "$pids" ] || break
		# shellcheck disable=SC2086 # a list
		kill -s $signal $pids 2>/dev/null
		sleep 0.5
	done
	if [ -n "${KEEP:-}" ]; then
		say "kept $sandbox"
	else
		rm -rf "$sandbox" || { sleep 1; rm -rf "$sandbox"; }
	fi
}

own()
{
	[ "$(id -u)" -ne 0 ] || chown -R "$owner:$(id -gn "$owner")" "$@"
}

as_user()
{
	local user=$1

	shift
	if [ "$(id -un)" = "$user" ]; then
		"$@"
	else
		setpriv --reuid="$user" --regid="$(id -gn "$user")" --init-groups "$@"
	fi
}

# Runs a command [NAME=VALUE]... in the copied tree as the owner of the
# sandbox, with nothing of the caller's environment but what was meant for it.
as_owner()
{
	local name vars=()

	for name in $(compgen -e | grep -E '^(LEDGER_|PG_TEST_|SUITE$|PGISOLATIONTIMEOUT$|TERM$|COLUMNS$|JOBS$)'); do
		vars+=("$name=${!name}")
	done
	(
		cd "$sandbox/src" || exit
		as_user "$owner" env -i PATH=/usr/local/bin:/usr/bin:/bin LC_ALL=C.UTF-8 \
			HOME="$sandbox/tmp" TMPDIR="$sandbox/tmp" \
			SANDBOX="$sandbox" PG_CONFIG="$sandbox/pg/pg_config" \
			"${vars[@]}" "$@"
	)
}

# The tree without what belongs to git or was built in it.
copy_tree()
{
	mkdir "$2"
	tar -C "$1" -cf - --exclude=./.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' \
		--exclude='./ledger--*.sql' --exclude=./results --exclude=./output_iso \
		--exclude=./tmp_check --exclude=./log . | tar -C "$2" -xf - --no-same-owner
}

# PostgreSQL finds its directories by their place relative to its programs, so
# a copy of those directories is an installation of its own.  Leaves a link
# pg_config at the top of the copy; refuses one whose library directory would
# still be the original's, because an installation would then go there.
copy_postgres()
{
	local pg_config=$1 copy=$2 dir real

	command -v "$pg_config" >/dev/null || die "there is no $pg_config"
	get()
	{
		"$pg_config" "--$1"
	}
	[ -f "$(get pgxs)" ] || die "$pg_config: no PGXS; the server's development package is missing"

	copy_dir()
	{
		[ -e "$copy$1" ] || { mkdir -p "$copy$1" && cp -r "$1/." "$copy$1/"; }
	}
	# an installation in a directory of its own has its own libpq
	real=$(dirname "$(get bindir)")
	case $real in
		/usr | /usr/local) ;;
		*) [ "$(dirname "$(get libdir)")" != "$real" ] || copy_dir "$(get libdir)" ;;
	esac
	for dir in bindir sharedir pkglibdir; do
		copy_dir "$(get $dir)"
	done
	for dir in includedir pkgincludedir includedir-server; do
		real=$(get $dir)
		[ ! -e "$copy$real" ] || continue
		mkdir -p "$copy${real%/*}"
		# what lies in root's own cache is not for the user postgres to read
		if as_user "$owner" test -r "$real"; then
			ln -s "$real" "$copy$real"
		else
			cp -r "$real" "$copy$real"
		fi
	done
	ln -s "$copy$(get bindir)/pg_config" "$copy/pg_config"
	for dir in sharedir pkglibdir; do
		[ "$("$copy/pg_config" --$dir)" = "$copy$(get $dir)" ] ||
			die "$pg_config: this PostgreSQL cannot be moved (its $dir is fixed)"
	done
}
