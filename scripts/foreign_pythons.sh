#!/usr/bin/env bash
# Debian's Python for other processors, unpacked for qemu-user, to try wheels with: scripts/foreign_pythons.sh FOLDER
# makes FOLDER/aarch64 and FOLDER/armv7l.
set -euo pipefail
mirror=http://deb.debian.org/debian
packages='python3.11-minimal|libpython3.11-minimal|libpython3.11-stdlib|libc6|libgcc-s1|zlib1g|libexpat1|libffi8|libcrypt1'
for pair in aarch64:arm64 armv7l:armhf; do
  root=$1/${pair%:*}
  [ -x "$root/usr/bin/python3.11" ] && continue
  rm -rf "$root" && mkdir -p "$root"
  curl -fsS "$mirror/dists/bookworm/main/binary-${pair#*:}/Packages.xz" | xz -d |
    sed -nE "s/^Filename: (.*\/($packages)_[^\/]*)$/\1/p" | while read -r file; do
    curl -fsS "$mirror/$file" -o "$root/package.deb" && dpkg -x "$root/package.deb" "$root"
  done
  rm -f "$root/package.deb"
done
