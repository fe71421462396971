#!/bin/bash
# Makes pages.zst anew: starts five programs on public sources with an empty environment, samples
# each of them in the middle of its work, and compresses the pages. As root, with python3, g++, rustc,
# node with npm, and a JDK with its src.zip; takes about three minutes.
set -eu
cd "$(dirname "$0")/../.."
out=$PWD/tests/data/pages.zst
xtask=${CARGO_TARGET_DIR:-target}/debug/xtask
cargo build --quiet --package xtask
scratch=$(mktemp -d)
pid=
trap 'kill -KILL $pid 2>/dev/null || true; rm -rf "$scratch"' EXIT
raw=$scratch/pages.raw
: >"$raw"

# sample PAGES: take pages of $pid, then end it. Runs that name this machine or its user are left out.
sample() {
    "$xtask" corpus capture --pid "$pid" --pages "$1" --out "$raw" --append \
        --without "$(hostname)" --without "$HOME" --without "$PWD"
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null || true
}

# start COMMAND…: in the background, in the scratch directory, with no environment but a PATH.
start() {
    (cd "$scratch" && exec env -i PATH=/usr/bin:/bin "$@" >/dev/null 2>&1) &
    pid=$!
}

# ready SECONDS: the program works on, and has been at it for this long.
ready() {
    sleep "$1"
    kill -0 "$pid" || { echo "the program ended early" >&2; exit 1; }
}

echo "python3: text index, parsed JSON, syntax trees"
cat >"$scratch/work.py" <<'PY'
import ast, json, os, re, sysconfig, time
library = sysconfig.get_paths()["stdlib"]
index, trees, texts = {}, [], {}
for name in sorted(os.listdir(library)):
    if name.endswith(".py"):
        with open(os.path.join(library, name), encoding="utf-8") as file:
            texts[name] = file.read()
for name, text in texts.items():
    for place, word in enumerate(re.findall(r"\w+", text)):
        index.setdefault(word.lower(), []).append((name, place))
    if len(trees) < 40:
        trees.append(ast.parse(text))
documents = json.loads(json.dumps([{"name": n, "lines": t.splitlines()} for n, t in texts.items()]))
open("ready", "w").close()
time.sleep(600)
PY
start "$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))')" -E -s work.py
until [ -e "$scratch/ready" ]; do ready 1; done
sample 416

echo "g++: a C++ file with much of the standard library, -O2 -g"
{
    for header in algorithm any chrono filesystem functional future iostream map memory random \
        ranges regex sstream string thread unordered_map variant vector; do
        echo "#include <$header>"
    done
    for i in $(seq 60); do
        echo "struct S$i { std::map<std::string, std::vector<int>> m; std::regex r{\"a$i(b|c)*\"};" \
            "int f(const std::string &s) { std::smatch k; if (std::regex_search(s, k, r))" \
            "m[k[0]].push_back($i); std::vector<int> v = m[s]; std::sort(v.begin(), v.end());" \
            "return std::accumulate(v.begin(), v.end(), (int)m.size()); } };" \
            "int g$i(const std::string &s) { return S$i{}.f(s); }"
    done
} | sed '1i #include <numeric>' >"$scratch/work.cc"
start "$(g++ -print-prog-name=cc1plus)" -quiet -imultiarch "$(g++ -print-multiarch)" -D_GNU_SOURCE \
    -std=c++20 -O2 -g work.cc -o /dev/null
ready 7
sample 416

echo "rustc: a crate of parsers and tables, optimised"
syntax=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/regex-syntax-* | tail -n 1)
cp -r "$syntax" "$scratch/regex-syntax"
features=$(for f in std unicode unicode-age unicode-bool unicode-case unicode-gencat unicode-perl \
    unicode-script unicode-segment; do printf ' --cfg feature="%s"' "$f"; done)
# shellcheck disable=SC2086
start "$(rustc --print sysroot)/bin/rustc" --crate-name regex_syntax --crate-type lib \
    --edition 2021 -C opt-level=3 -C codegen-units=1 -g $features \
    regex-syntax/src/lib.rs --out-dir "$scratch/out"
ready 4
sample 416

echo "node: objects, maps and JSON from the sources of npm"
cat >"$scratch/work.js" <<'JS'
const fs = require("fs"), path = require("path");
const words = new Map(), files = [];
function walk(directory) {
    for (const entry of fs.readdirSync(directory, { withFileTypes: true })) {
        const file = path.join(directory, entry.name);
        if (entry.isDirectory()) walk(file);
        else if (/\.(js|json|md)$/.test(entry.name)) {
            const text = fs.readFileSync(file, "utf8");
            files.push({ name: entry.name, lines: text.split("\n"), size: text.length });
            for (const word of text.match(/\w+/g) || []) words.set(word, (words.get(word) || 0) + 1);
        }
    }
}
walk(process.argv[2]);
const sessions = Array.from({ length: 40000 }, (_, i) =>
    ({ id: i, name: `user ${i}`, visits: [i, i * 7], seen: new Date(1e12 + i * 6e4), tags: { a: i % 5 } }));
const copy = JSON.parse(JSON.stringify(files));
fs.writeFileSync("ready", "");
setTimeout(() => [words, sessions, copy], 600000);
JS
rm "$scratch/ready"
start "$(node -p process.execPath)" work.js "$(dirname "$(readlink -f "$(command -v npm)")")/.."
until [ -e "$scratch/ready" ]; do ready 1; done
sample 416

echo "javac: the JDK's own java.util"
# Debian's own JDK has a link to nowhere in its place until openjdk-17-source is installed.
java=$(for zip in /usr/lib/jvm/*/lib/src.zip; do [ -s "$zip" ] && echo "${zip%/lib/src.zip}"; done | head -n 1)
[ -n "$java" ] || { echo "no JDK with its src.zip; apt-get install openjdk-17-source" >&2; exit 1; }
(cd "$scratch" && python3 -m zipfile -e "$java/lib/src.zip" source)
start "$java/bin/javac" -J-Xmx512m -nowarn -d "$scratch/classes" --patch-module \
    "java.base=source/java.base" $(cd "$scratch" && find source/java.base/java/util -name '*.java')
ready 9
sample 416

"$xtask" corpus stat "$raw"
zstd -q -f -19 --long=24 "$raw" -o "$out"
ls -l "$out"
