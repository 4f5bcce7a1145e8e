/* Compiles functions for each instruction set, and chooses among them: `VARIANT`, `ENTRY` and `Variant` say which. */

VARIANT(plain, )
#if defined(__GNUC__) && defined(__x86_64__)
#define WIDE "avx512f,avx512bw,avx512vl,avx512dq,fma,prefer-vector-width=512"
VARIANT(avx2, __attribute__((target("avx2,fma"))))
VARIANT(avx512, __attribute__((target(WIDE))))
VARIANT(vnni, __attribute__((target(WIDE ",avx512vnni"))))
static const Variant variants[] = {ENTRY(vnni), ENTRY(avx512), ENTRY(avx2), ENTRY(plain)};

static int is_supported(const Variant *each) {
    const int fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const int wide = fused && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (each == &variants[0]) return wide && __builtin_cpu_supports("avx512vnni");
    if (each == &variants[1]) return wide;
    return each == &variants[2] ? fused : 1;
}
#else
static const Variant variants[] = {ENTRY(plain)};
static int is_supported(const Variant *each) { return each != NULL; }
#endif
#define VARIANTS (sizeof variants / sizeof variants[0])
static const Variant *variant;

static void find_variant(void) {
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
#endif
    variant = variants;
    while (!is_supported(variant)) variant++;
}

static const char instructions_doc[] =
    "instructions()\n--\n\nReturns the instruction sets that this processor has, the fastest first.";

static PyObject *instructions(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    PyObject *names = PyList_New(0);
    for (size_t i = 0; names && i < VARIANTS; i++) {
        if (!is_supported(&variants[i])) continue;
        PyObject *name = PyUnicode_FromString(variants[i].name);
        if (!name || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static const char use_doc[] = "use(name)\n--\n\nUses one of `instructions`; for tests.";

static PyObject *use(PyObject *module, PyObject *name) {
    (void)module;
    for (size_t i = 0; PyUnicode_Check(name) && i < VARIANTS; i++)
        if (PyUnicode_CompareWithASCIIString(name, variants[i].name) == 0 && is_supported(&variants[i])) {
            variant = &variants[i];
            Py_RETURN_NONE;
        }
    PyErr_SetString(PyExc_ValueError, "this processor has no such instruction set");
    return NULL;
}
