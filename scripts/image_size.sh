#!/usr/bin/env bash
# Measures the size of the Dockerfile's image without a container engine: builds the same root folder with debootstrap,
# installs the same packages in it, runs the installed program there, and adds up the sizes of the files.
# Needs root, debootstrap, a Debian mirror and the package index; 1 to 4 minutes.   Usage: scripts/image_size.sh [EXTRAS]
set -euo pipefail
clone=$(realpath "$(dirname "$0")/..")
limit_mb=1200
[ "$(id -u)" = 0 ] || { echo "image_size.sh must run as root: debootstrap creates a root folder" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 2; }

# Read from the Dockerfile, so that the two cannot differ.
suite=$(sed -n 's/^FROM debian:\([a-z]*\)-slim$/\1/p' "$clone/Dockerfile")
extras=${1:-$(sed -n 's/^ARG EXTRAS=//p' "$clone/Dockerfile")}
packages=$(sed -n '/^FROM debian:[a-z]*-slim$/,$ s/.*--no-install-recommends \([a-z0-9 .-]*[a-z0-9]\).*/\1/p' "$clone/Dockerfile" | tr ' ' ',')
: "${suite:?no FROM line in the Dockerfile}" "${extras:?no ARG EXTRAS in the Dockerfile}" "${packages:?no packages in the Dockerfile}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
echo "Debian $suite with $packages; facespace[$extras]"
debootstrap --variant=minbase --include="$packages" "$suite" "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" \
  >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/*

mb() { du -sm --apparent-size "$@" | awk '{ sum += $1 } END { print sum }'; }
debian=$(mb "$root")
echo "Debian and Python          $debian MB"

# The venv is created inside the root by its own Python, as in the Dockerfile's first stage; that stage's own packages are not counted.
cp /etc/resolv.conf "$root/etc/resolv.conf"
certificate=${PIP_CERT:-}
[ -z "$certificate" ] || cp "$certificate" "$root/tmp/certificates.crt"
mkdir "$root/src"
(cd "$clone" && tar --exclude=__pycache__ -c src licences hatch_build.py pyproject.toml README.md LICENSE NOTICE) | tar -x -C "$root/src"
inside() { env -i PATH=/opt/facespace/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp ${certificate:+PIP_CERT=/tmp/certificates.crt} \
  ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} FACESPACE_HOME=/tmp/models PYTHONDONTWRITEBYTECODE=1 chroot "$root" "$@"; }
[ -c "$root/dev/urandom" ] || mknod -m 444 "$root/dev/urandom" c 1 9
inside python3 -m venv --without-pip /opt/facespace
python=$(ls "$clone"/.venv/bin/python 2>/dev/null || command -v python3)
"$python" -m pip --quiet download --no-deps --dest "$work/pip" pip 2>"$work/log" || { cat "$work/log" >&2; exit 1; } # the root does not have pip, and should not
"$python" -m zipfile -e "$work"/pip/pip-*.whl "$root/tmp/pip"
inside env PYTHONPATH=/tmp/pip PYTHONDONTWRITEBYTECODE= /opt/facespace/bin/python -m pip install --quiet --no-cache-dir "/src[$extras]" \
  >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
venv=$(mb "$root/opt/facespace")
cp /proc/cpuinfo "$root/proc/cpuinfo" # a copy, as OpenVINO needs it; nothing is mounted, so nothing else can be removed
echo "facespace and its packages $venv MB"
for folder in $(du -m --apparent-size --max-depth=1 "$root"/opt/facespace/lib/python3*/site-packages | sort -rn | sed -n '2,9p' | awk '{ print $1 ":" $2 }'); do
  printf '  %4d MB  %s\n' "${folder%%:*}" "$(basename "${folder#*:}")"
done
if find "$root/opt/facespace" -path '*/site-packages/torch' -type d | grep -q .; then echo "the image must not contain torch" >&2; exit 1; fi
inside facespace doctor >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
echo "facespace doctor in this root: fine"

# Start the service as the image does: as a user other than root, who may write only in /data and /tmp; then run its health check.
install -d -o 10001 -g 10001 -m 0700 "$root/data"
rm -rf "$root/tmp"/*
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
check=$(sed -n 's/^ *CMD \[".*python", "-c", "\(.*\)"\]$/\1/p' "$clone/Dockerfile")
chroot --userspec=10001:10001 "$root" /usr/bin/env -i PATH=/opt/facespace/bin:/usr/bin:/bin FACESPACE_HOME=/data/models \
  FACESPACE_GALLERY=/data/people.gallery facespace serve --port "$port" >"$work/log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 120); do
  if chroot --userspec=10001:10001 "$root" /opt/facespace/bin/python -c "${check/8000/$port}" 2>/dev/null; then healthy=yes; break; fi
  kill -0 $server 2>/dev/null || break
  sleep 0.5
done
[ "${healthy:-}" = yes ] || { echo "the service does not answer its health check" >&2; cat "$work/log" >&2; exit 1; }
echo "facespace serve as user 10001: the health check is answered"
kill $server && wait $server || true
total=$((debian + venv))
echo "image                      $total MB   must be below $limit_mb"
[ "$total" -lt "$limit_mb" ]
