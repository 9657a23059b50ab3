#!/usr/bin/env bash
# Downloads the wheels that gpu.py needs on a machine which has JAX and PyTorch but neither scmkit nor a network,
# into benchmarks/wheels, for CPython 3.12 on x86-64 Linux: pydantic with what it needs, and a peer of our
# attention. Take the checkout and that folder along; gpu.py unpacks what is missing there.
#
#   benchmarks/gpu_wheels.sh                        # about 3 MB
#   benchmarks/gpu_wheels.sh 313 equinox==0.13.8    # for CPython 3.13; and one that is too old there
set -euo pipefail
cd "$(dirname "$0")"
export PIP_DISABLE_PIP_VERSION_CHECK=1
python=312
if [[ ${1:-} =~ ^3[0-9]+$ ]]; then python=$1 && shift; fi

platforms=()
for glibc in 17 24 27 28 31 34; do # pip takes each for itself alone
  platforms+=(--platform "manylinux_2_${glibc}_x86_64")
done
get() { # get REQUIREMENT...
  python3 -m pip download --quiet --only-binary=:all: --dest wheels --implementation cp \
    --python-version "$python" "${platforms[@]}" --platform manylinux2014_x86_64 "$@"
}
if [ -d wheels ]; then # what else lies there stays; no two versions of a package
  find wheels -name '*.whl' -delete
fi
mkdir -p wheels
get pydantic
get --no-deps jvp_flash_attention "$@"
du -ch wheels/*.whl
