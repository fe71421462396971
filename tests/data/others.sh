#!/bin/bash
# Captures pages of three programs that nothing here was tuned on: Firefox, Ruby and SQLite, 1024
# pages of each, to target/others/. As root, with firefox-esr, ruby and sqlite3; takes a minute. Then:
#   cargo bench -p trueno-zram-core -- "$PWD"/target/others/*.pages
set -eu
cd "$(dirname "$0")/../.."
out=$PWD/target/others
xtask=${CARGO_TARGET_DIR:-target}/debug/xtask
cargo build --quiet --package xtask
cargo doc --quiet --no-deps
doc=$(realpath "${CARGO_TARGET_DIR:-target}")/doc
scratch=$(mktemp -d)
pid=
trap 'pkill -KILL -s "$pid" 2>/dev/null || true; rm -rf "$scratch"' EXIT
mkdir -p "$out"

# start COMMAND…: in the background and a session of its own, with no environment but PATH and HOME.
start() {
    (cd "$scratch" && exec setsid env -i PATH=/usr/bin:/bin HOME="$scratch" "$@" >/dev/null 2>&1) &
    pid=$!
}

# ready: the program has written the file of that name.
ready() {
    until [ -e "$scratch/ready" ]; do
        sleep 1
        kill -0 "$pid" || { echo "the program ended early" >&2; exit 1; }
    done
    rm "$scratch/ready"
}

# sample NAME: take pages of the session's processes, then end them.
sample() {
    # shellcheck disable=SC2046
    "$xtask" corpus capture $(pgrep -s "$pid" | sed 's/^/--pid /') --pages 1024 --out "$out/$1.pages"
    pkill -KILL -s "$pid"
    { wait "$pid" || true; } 2>/dev/null
}

echo "firefox: the documentation of this workspace"
start firefox-esr --headless --no-remote --profile "$scratch" \
    "file://$doc/trueno_zram_core/index.html" "file://$doc/trueno_ublk/index.html" \
    "file://$doc/src/trueno_zram_core/codec/mod.rs.html" "file://$doc/trueno_ublk/all.html"
sleep 20
sample firefox

echo "ruby: a word index, hashes and lines of its own library"
cat >"$scratch/work.rb" <<'RB'
index, lines, users = Hash.new { |all, word| all[word] = [] }, [], []
Dir.glob("/usr/lib/ruby/**/*.rb").sort.first(600).each do |name|
  File.readlines(name, chomp: true, encoding: "BINARY").each_with_index do |line, number|
    lines << line
    line.scan(/\w+/) { |word| index[word.to_sym] << [name, number] }
  end
end
50_000.times { |i| users << { id: i, name: "user #{i}", seen: Time.at(1_000_000_000 + 60 * i), score: i * 0.7 } }
File.write("ready", "")
sleep 600
RB
start ruby work.rb
ready
sample ruby

echo "sqlite3: tables and indexes in memory"
cat >"$scratch/work.sql" <<'SQL'
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, mail TEXT, born DATE, score REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
INSERT INTO users SELECT i, 'user ' || i, printf('u%d@host%d.example', i, i % 300),
    date('1960-01-01', '+' || (i * 37 % 20000) || ' days'), (i * 7919 % 100003) / 7.0 FROM n;
CREATE TABLE orders (id INTEGER PRIMARY KEY, user INT, at TEXT, cents INT, key BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
INSERT INTO orders SELECT i, i * 31 % 100000, datetime(1700000000 + i * 13, 'unixepoch'),
    abs(random()) % 100000, randomblob(8) FROM n;
CREATE INDEX by_mail ON users (mail);
CREATE INDEX by_user ON orders (user, at);
.once ready
SELECT count(*) FROM orders JOIN users ON user = users.id;
SQL
# Its input stays open, so that it waits for more.
start bash -c 'sqlite3 :memory: < <(cat work.sql; sleep 600)'
ready
sample sqlite
