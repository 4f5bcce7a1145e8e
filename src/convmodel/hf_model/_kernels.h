/* What the compiled kernels share: how functions are compiled, threads, and arguments from Python. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT __restrict__
#define REQUEST(address) __builtin_prefetch(address)
#define LOAD(number) __atomic_load_n(number, __ATOMIC_RELAXED)
#define REPLACE(number, old, new)                                                                                      \
    __atomic_compare_exchange_n(number, old, new, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
#define TAKE(number, count) __atomic_fetch_add(number, count, __ATOMIC_RELAXED)
#else
#define INLINE static inline
#define RESTRICT
#define REQUEST(address) ((void)(address))
#define LOAD(number) (*(number)) /* without threads */
#define REPLACE(number, old, new) (*(number) = (new), 1)
#define TAKE(number, count) ((*(number) += (count)) - (count))
#endif

/* Cephes' exponential function. Since compilers may add the two constants first, it is within 1e-7 of the value near 0,
   and 4e-6 at -80. */
INLINE float exponential(float x) {
    x = x < -87 ? -87 : x > 88 ? 88 : x;
    const float n = rintf(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    union {
        int32_t bits;
        float value;
    } power = {.bits = ((int32_t)n + 127) << 23};
    return (y * r * r + r + 1) * power.value;
}

#define LANES 16

/* Returns the largest value, in lanes, since compilers do not change the order of comparisons of floats. */
INLINE float largest_of(const float *RESTRICT values, int64_t count) {
    float lanes[LANES], result = -INFINITY;
    int64_t i = 0;
    for (int64_t lane = 0; lane < LANES; lane++) lanes[lane] = -INFINITY;
    for (; i + LANES <= count; i += LANES)
        for (int64_t lane = 0; lane < LANES; lane++)
            lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    for (; i < count; i++) result = values[i] > result ? values[i] : result;
    for (int64_t lane = 0; lane < LANES; lane++) result = lanes[lane] > result ? lanes[lane] : result;
    return result;
}

INLINE float silu(float x) { return x / (1 + exponential(-x)); }
INLINE float gelu(float x) { return x / (1 + exponential(-1.5957691216f * (x + 0.044715f * x * x * x))); }

/* torch's threads are those of GNU OpenMP; threads of our own would compete with them, since they wait actively. */
static void (*run_parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*thread_number)(void);
static int (*thread_count)(void);

#if defined(__linux__)
#include <dlfcn.h>
static void find_threads(void) {
    *(void **)&thread_number = dlsym(RTLD_DEFAULT, "omp_get_thread_num");
    *(void **)&thread_count = dlsym(RTLD_DEFAULT, "omp_get_num_threads");
    if (thread_number && thread_count) *(void **)&run_parallel = dlsym(RTLD_DEFAULT, "GOMP_parallel");
}
#else
static void find_threads(void) {}
#endif

/* Reads a plan, unless that is NULL, and then integers and addresses from Python. */
static int read_integers(PyObject *const *arguments, Py_ssize_t count, Py_ssize_t wanted, const char **plan, int64_t *values) {
    Py_ssize_t size;
    if (count != wanted) {
        PyErr_Format(PyExc_TypeError, "it takes %zd arguments", wanted);
        return -1;
    }
    if (plan && PyBytes_AsStringAndSize(*arguments++, (char **)plan, &size) < 0) return -1;
    for (Py_ssize_t i = 0; i < wanted - (plan != NULL); i++) values[i] = PyLong_AsLongLong(arguments[i]);
    return PyErr_Occurred() ? -1 : 0;
}
