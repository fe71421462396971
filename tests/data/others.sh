#!/bin/bash
# Captures pages of five programs that nothing here was tuned on: Firefox, Ruby, SQLite, Perl and Tcl,
# 1024 pages of each (or $PAGES), to target/others/. As root, with firefox-esr, ruby, sqlite3, perl and
# tcl; takes two minutes. Then:
#   cargo bench -p trueno-zram-core -- "$PWD"/target/others/*.pages
#   cargo run --release -p xtask -- train --unseen target/others
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
    "$xtask" corpus capture $(pgrep -s "$pid" | sed 's/^/--pid /') --pages "${PAGES:-1024}" --out "$out/$1.pages"
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

echo "perl: words of its own library, records and the text of a report"
cat >"$scratch/work.pl" <<'PL'
use strict;
my (%index, @lines, @records, @report);
for my $name ((sort glob("/usr/share/perl/*/*.pm /usr/share/perl/*/*/*.pm"))[0 .. 299]) {
    open my $file, '<', $name or next;
    while (my $line = <$file>) {
        push @lines, $line;
        push @{ $index{$_} }, "$name:$." for $line =~ /\w{4,}/g;
    }
}
for my $i (1 .. 40_000) {
    push @records, { id => $i, mail => "u$i\@host" . $i % 300, score => $i * 7919 % 100_003 / 7 };
    push @report, sprintf("%08d  %-24s %10.2f\n", $i, $records[-1]{mail}, $records[-1]{score});
}
my $text = join '', @report;
open my $ready, '>', 'ready' or die;
close $ready;
sleep 600;
PL
start perl work.pl
ready
sample perl

echo "tclsh: dictionaries, lists and strings"
cat >"$scratch/work.tcl" <<'TCL'
set text ""
for {set i 0} {$i < 60000} {incr i} {
    set user [dict create id $i mail "u$i@host[expr {$i % 300}].example" score [expr {$i * 7919 % 100003 / 7.0}]]
    dict set users $i $user
    lappend times [clock format [expr {1700000000 + 13 * $i}] -gmt 1]
    append text "$i: [dict get $user mail]\n"
}
foreach line [split $text "\n"] { incr seen([string range $line end-12 end]) }
close [open ready w]
after 600000
TCL
start tclsh work.tcl
ready
sample tclsh
