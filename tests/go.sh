# A Go that is new enough, for scripts that have sourced tests/brokers/common.sh: this machine's, or else the toolchain that Go's
# own module proxy serves. Debian 12 has Go 1.19.
# shellcheck shell=bash

fill_go() {
    python3 - "$1" <<'END'
import io, os, platform, shutil, sys, urllib.request, zipfile

machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
proxy = os.environ.get("GOPROXY", "https://proxy.golang.org").split(",")[0]
name = f"golang.org/toolchain@v0.0.1-go1.26.8.linux-{machine}"
with urllib.request.urlopen(f"{proxy}/{name.replace('@', '/@v/')}.zip") as answer:
    archive = zipfile.ZipFile(io.BytesIO(answer.read()))
archive.extractall(sys.argv[1])
os.rename(f"{sys.argv[1]}/{name}", f"{sys.argv[1]}/go")
shutil.rmtree(f"{sys.argv[1]}/golang.org")
# An archive of a module keeps no permissions.
for folder in ["bin", "pkg/tool"]:
    for parent, _, files in os.walk(f"{sys.argv[1]}/go/{folder}"):
        for file in files:
            os.chmod(f"{parent}/{file}", 0o755)
END
}

# The path of the program.
go_program() {
    local minor
    minor=$({ go env GOVERSION 2>/dev/null || true; } | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    if [[ ${minor:-0} -ge 25 ]]; then
        command -v go
    else
        echo "$(cached go-1.26.8 fill_go)/go/bin/go"
    fi
}
