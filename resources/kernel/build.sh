#!/bin/sh
# Builds a kernel for coracle guests from Debian's linux-source package, with common.config and the file of the
# architecture beside this script.
#
#   build.sh [x86_64|aarch64] [FOLDER]     the kernel is FOLDER/ARCH/kernel (default: target/kernel-tuned)
#
# Needs the packages bc, bison, flex, gcc, libelf-dev, libssl-dev, make and xz-utils; for aarch64 on another machine
# gcc-aarch64-linux-gnu. JOBS says how many compilers run at once (default: one per processor).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
arch=${1:-$(uname -m)}
folder=${2:-target/kernel-tuned}
series=6.1
jobs=${JOBS:-$(nproc)}

case $arch in
x86_64) kernel_arch=x86 target=vmlinux image=vmlinux prefix=x86_64-linux-gnu- ;;
aarch64) kernel_arch=arm64 target=Image image=arch/arm64/boot/Image prefix=aarch64-linux-gnu- ;;
*) echo "build.sh: $arch is no architecture of coracle: give x86_64 or aarch64" >&2; exit 1 ;;
esac
[ "$(uname -m)" = "$arch" ] && prefix=
for tool in "${prefix}gcc" make flex bison bc xz; do
    command -v "$tool" >/dev/null || {
        echo "build.sh: there is no $tool: install it with apt-get" >&2
        exit 1
    }
done

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
source=$folder/linux-source-$series
output=$folder/$arch/build

# The source, once. It is unpacked beside and renamed, so a broken run leaves none.
if [ ! -d "$source" ]; then
    echo "build.sh: fetching linux-source-$series" >&2
    rm -rf "$folder/unpack"
    mkdir -p "$folder/unpack"
    (cd "$folder/unpack" && apt-get -q -o APT::Sandbox::User=root download "linux-source-$series" >&2)
    dpkg-deb -x "$folder"/unpack/linux-source-*.deb "$folder/unpack"
    tar -C "$folder/unpack" -xJf "$folder/unpack/usr/src/linux-source-$series.tar.xz"
    mv "$folder/unpack/linux-source-$series" "$source"
    rm -rf "$folder/unpack"
fi

mkdir -p "$output"
run_make() {
    make -s -C "$source" O="$output" ARCH="$kernel_arch" CROSS_COMPILE="$prefix" \
        KBUILD_BUILD_TIMESTAMP=1970-01-01 KBUILD_BUILD_USER=coracle KBUILD_BUILD_HOST=coracle "$@"
}

cat "$here/common.config" "$here/$arch.config" >"$output/wanted.config"
run_make KCONFIG_ALLCONFIG="$output/wanted.config" allnoconfig >/dev/null

# An option that the kernel does not know, or whose conditions are not met, vanishes silently: not here.
missing=$(grep -E '^CONFIG_' "$output/wanted.config" | grep -vxF -f "$output/.config" || true)
if [ -n "$missing" ]; then
    printf 'build.sh: linux-source-%s does not take these options:\n%s\n' "$series" "$missing" >&2
    exit 1
fi

echo "build.sh: building for $arch, which takes minutes" >&2
run_make -j"$jobs" "$target"
case $arch in
x86_64) "${prefix}strip" -o "$folder/$arch/kernel.new" "$output/$image" ;;
aarch64) cp "$output/$image" "$folder/$arch/kernel.new" ;;
esac
mv "$folder/$arch/kernel.new" "$folder/$arch/kernel"
echo "$folder/$arch/kernel"
