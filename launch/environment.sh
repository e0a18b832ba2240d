# Sourced by whatever starts ranks: what they need of their environment, each with its reason. A variable that is set
# already, by a person or a site, stays as it is.

default() { [ -n "${!1+set}" ] || export "$1=$2"; }

# What a rank said before it was killed would be lost in a buffer, and a crash in C++ would leave no stack of Python.
default PYTHONUNBUFFERED 1
default PYTHONFAULTHANDLER 1

# The number of tokens that reach an expert changes with each step, and with it the size of what is allocated: blocks of
# fixed size fragment until memory runs out. torch reads the first name before the second, and 2.9.1 this setting under
# the first only: whoever chose either has chosen.
[ -n "${PYTORCH_ALLOC_CONF+set}" ] || default PYTORCH_CUDA_ALLOC_CONF expandable_segments:True

# Triton compiles into the home folder by default: on a cluster a network file system, written by all ranks at once.
default TRITON_CACHE_DIR "${TMPDIR:-/tmp}/triton-$(id -u)"

# Ranks on CPUs: glibc gives large tensors back to the system when they are freed, and the next ones fault their pages in
# again; huge pages fault in once where small ones do 512 times.
default MALLOC_MMAP_THRESHOLD_ 33554432
default MALLOC_TRIM_THRESHOLD_ 4294967296
default GLIBC_TUNABLES glibc.malloc.hugetlb=1
