# shellcheck shell=bash
# test/lib/assert-server.sh: a PostgreSQL with assertions, built from Debian's
# source package once and kept in the user's cache for the next run.
# Sourced by test/lib/sandbox.

# The version, and the suite of Debian whose main archive has it; the security
# archive does not always serve its sources.
assert_version=${LEDGER_ASSERT_VERSION:-15.18-0+deb12u1}
assert_suite=${LEDGER_ASSERT_SUITE:-bookworm}

# assert_server cassert|caches|valgrind: prints the path of its pg_config.
assert_server()
{
	local prefix=${XDG_CACHE_HOME:-$HOME/.cache}/ledger-cassert/${assert_version%%-*}-$1-libxml tarball

	if [ ! -x "$prefix/bin/pg_config" ]; then
		say "building PostgreSQL ${assert_version%%-*} ($1); this is kept in $prefix"
		tarball=$(fetch_source "$sandbox/source")
		own "$sandbox"
		as_owner LEDGER_VARIANT="$1" test/lib/build-server "$tarball" "$prefix" "$sandbox/built" >&2
		mkdir -p "$(dirname "$prefix")"
		rm -rf "$prefix.new"
		cp -r "$sandbox/built$prefix" "$prefix.new"
		chmod -R go+rX "$prefix.new"
		mv "$prefix.new" "$prefix"
		rm -rf "$sandbox/source" "$sandbox/built"
	fi
	printf '%s\n' "$prefix/bin/pg_config"
}

# fetch_source DIRECTORY: the upstream tarball, checked by apt against the
# archive's signature; prints its path.  The deb-src line lives in a
# configuration of our own, so no root is needed and the system's stays as it is.
fetch_source()
{
	local apt=$1/apt uri options tarball

	mkdir -p "$apt/lists/partial" "$apt/archives/partial"
	uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' |
		grep '/debian/*$' | head -n 1 || true)
	printf 'deb-src [signed-by=%s] %s %s main\n' /usr/share/keyrings/debian-archive-keyring.gpg \
		"${uri:-http://deb.debian.org/debian}" "$assert_suite" >"$apt/sources.list"
	options=(-qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt" -o APT::Sandbox::User="$(id -un)")
	apt-get "${options[@]}" update >&2
	(cd "$1" && apt-get "${options[@]}" source --download-only "postgresql-${assert_version%%.*}=$assert_version") >&2
	tarball=$(ls "$1"/postgresql-*.orig.tar.bz2)
	printf '%s\n' "$tarball"
}
