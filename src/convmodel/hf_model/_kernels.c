/* What a decoder computes in generating: products with the weights of linear layers, and attention.

Owns: products of a few rows with float and with int8 weights; what is applied to activations before a product, and the
rounding and scaling around products of many integers, which torch computes; attention of one new token of each sequence,
and keys and values of several; all on the threads that torch computes on. `kernels.py` and `joint_product.py` call it.

The time of a product of one row is that of reading the weights. They are read in the order in which they lie in memory,
once for up to four rows of activations, and requested ahead of time. The loops are plain C, compiled for several
instruction sets; the compiler finds the instructions.

With int8 weights, activations are rounded to 15 bits, so that the sum of a thousand products fits in 32 bits. Two 16-bit
products are one instruction on every x86-64 processor of the last ten years (vpmaddwd). Sums of integers are exact, so
that a result does not depend on what else is in the batch.
*/

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <string.h>

#include "_kernels.h"

#define LARGEST_WEIGHT 127
#define BASE (2 * LARGEST_WEIGHT) /* of the coarse one of two 8-bit integers */
#define PIECE 1024 /* inputs whose products are summed in 32 bits */
#define AHEAD 2048 /* bytes between the weights that are used and those that are requested */
#define LINE 64    /* bytes that are requested together */
#define LARGEST_HEAD 1024
#define LEAST 16384 /* bytes of weights that a thread takes at least */

/* In Python: `struct.pack("4q")` and `struct.pack("7qd")`. */
typedef struct {
    const void *weights; /* outputs x inputs: float, or int8_t if there are scales */
    const float *scales; /* of each output */
    const float *bias;   /* of each output, or NULL */
    int64_t outputs;
} Matrix;

enum Before { NOTHING, RMS_NORM, LAYER_NORM, SILU, GELU, GATED_SILU, GATED_GELU }; /* GELU by its tanh approximation */

typedef struct {
    int64_t inputs;
    int64_t count;          /* of matrices, all with float or all with int8 weights */
    int64_t is_integer;
    int64_t before;         /* what is applied to activations; gated: to the first half, multiplied by the second */
    const float *norm;      /* the weights of a norm */
    const float *norm_bias; /* of a layer norm */
    const float *columns;   /* by which the inputs are multiplied before the product, or NULL */
    double epsilon;         /* of a norm */
    Matrix matrices[];
} Plan;

typedef struct {
    const Plan *plan;
    const float *activations; /* rows x inputs */
    const int16_t *rounded;   /* the same as integers */
    const float *scales;      /* of each row of integers */
    const float *residual;    /* added to the results, or NULL */
    float *results;           /* rows x all outputs */
    int64_t rows, width;
    int64_t threads, least;   /* how many threads there are, and how many outputs one takes at least */
    int64_t next;             /* the next output that no thread has taken, counted over all matrices */
} Job;

INLINE void rms_norm(const float *RESTRICT row, const float *RESTRICT weights, double epsilon, int64_t count, float *RESTRICT result) {
    float squares = 0;
    for (int64_t i = 0; i < count; i++) squares += row[i] * row[i];
    const float factor = 1 / sqrtf(squares / (float)count + (float)epsilon);
    for (int64_t i = 0; i < count; i++) result[i] = row[i] * factor * weights[i];
}

/* Applies to a row of activations what comes before the product. */
INLINE void prepare_row(const Plan *plan, const float *RESTRICT row, float *RESTRICT result) {
    const int64_t inputs = plan->inputs;
    if (plan->before == NOTHING) {
        memcpy(result, row, (size_t)inputs * sizeof(float));
    } else if (plan->before == RMS_NORM) {
        rms_norm(row, plan->norm, plan->epsilon, inputs, result);
    } else if (plan->before == LAYER_NORM) {
        float sum = 0, squares = 0;
        for (int64_t i = 0; i < inputs; i++) sum += row[i];
        const float mean = sum / (float)inputs;
        for (int64_t i = 0; i < inputs; i++) squares += (row[i] - mean) * (row[i] - mean);
        const float factor = 1 / sqrtf(squares / (float)inputs + (float)plan->epsilon);
        for (int64_t i = 0; i < inputs; i++) result[i] = (row[i] - mean) * factor * plan->norm[i] + plan->norm_bias[i];
    } else if (plan->before == SILU) {
        for (int64_t i = 0; i < inputs; i++) result[i] = silu(row[i]);
    } else if (plan->before == GELU) {
        for (int64_t i = 0; i < inputs; i++) result[i] = gelu(row[i]);
    } else if (plan->before == GATED_SILU) {
        for (int64_t i = 0; i < inputs; i++) result[i] = silu(row[i]) * row[inputs + i];
    } else {
        for (int64_t i = 0; i < inputs; i++) result[i] = gelu(row[i]) * row[inputs + i];
    }
    if (plan->columns)
        for (int64_t i = 0; i < inputs; i++) result[i] *= plan->columns[i];
}

/* Returns the largest absolute value, or NAN if a value is not finite. Without their sign, the bits of floats are ordered
   as the floats are, those of NAN last, and compilers vectorize the maximum of integers. */
INLINE float largest_size(const float *RESTRICT row, int64_t count) {
    union {
        int32_t bits;
        float value;
    } largest = {.bits = 0};
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, row + i, sizeof bits);
        bits &= INT32_MAX;
        largest.bits = bits > largest.bits ? bits : largest.bits;
    }
    return largest.value < INFINITY ? largest.value : NAN;
}

/* Returns the largest integer of an activation: a piece must fit in 32 bits, and an integer in two of 8 bits. */
INLINE float largest_integer(int64_t inputs) {
    const int64_t exact = INT32_MAX / LARGEST_WEIGHT / (inputs < PIECE ? inputs : PIECE);
    return (float)(exact < LARGEST_WEIGHT * BASE ? exact : LARGEST_WEIGHT * BASE);
}

/* Rounds a row of activations to integers; returns their scale, NAN if a value is not finite. */
INLINE float round_row(const float *RESTRICT row, int16_t *RESTRICT rounded, int64_t inputs) {
    const float largest = largest_integer(inputs);
    const float peak = largest_size(row, inputs), inverse = peak > 0 ? largest / peak : 0;
    for (int64_t i = 0; i < inputs; i++) rounded[i] = (int16_t)(int32_t)rintf(row[i] * inverse);
    return peak / largest;
}

/* Adds to sums the products of a row of weights with one, two or four rows of activations that are `stride` apart. */
#define SUM_ROWS(name, Weight, Value, Sum, Total)                                                                      \
    INLINE void name(const Weight *RESTRICT w, const Value *RESTRICT x, int64_t stride, int64_t count, int64_t rows,   \
                     Total *RESTRICT sums) {                                                                           \
        Sum a = 0, b = 0, c = 0, d = 0;                                                                                \
        if (rows == 1) {                                                                                               \
            for (int64_t i = 0; i < count; i++) a += (Value)w[i] * x[i];                                               \
        } else if (rows == 2) {                                                                                        \
            for (int64_t i = 0; i < count; i++) {                                                                      \
                const Value weight = w[i];                                                                             \
                a += weight * x[i], b += weight * x[stride + i];                                                       \
            }                                                                                                          \
        } else {                                                                                                       \
            for (int64_t i = 0; i < count; i++) {                                                                      \
                const Value weight = w[i];                                                                             \
                a += weight * x[i], b += weight * x[stride + i];                                                       \
                c += weight * x[2 * stride + i], d += weight * x[3 * stride + i];                                      \
            }                                                                                                          \
        }                                                                                                              \
        sums[0] += a;                                                                                                  \
        if (rows > 1) sums[1] += b;                                                                                    \
        if (rows > 2) sums[2] += c, sums[3] += d;                                                                      \
    }
SUM_ROWS(sum_integers, int8_t, int16_t, int32_t, int64_t)
SUM_ROWS(sum_floats, float, float, float, float)

INLINE void request(const void *address, int64_t size) {
    for (int64_t i = 0; i < size; i += LINE) REQUEST((const char *)address + AHEAD + i);
}

INLINE void store(const Job *job, const Matrix *matrix, int64_t row, int64_t column, int64_t n, float value) {
    const int64_t place = row * job->width + column + n;
    if (matrix->bias) value += matrix->bias[n];
    job->results[place] = job->residual ? value + job->residual[place] : value;
}

INLINE void multiply_integers(const Job *job, const Matrix *matrix, int64_t n, int64_t row, int64_t rows, int64_t column) {
    const int64_t inputs = job->plan->inputs;
    const int8_t *weights = (const int8_t *)matrix->weights + n * inputs;
    const int16_t *rounded = job->rounded + row * inputs;
    int64_t sums[4] = {0};
    for (int64_t begin = 0; begin < inputs; begin += PIECE) {
        const int64_t count = inputs - begin < PIECE ? inputs - begin : PIECE;
        sum_integers(weights + begin, rounded + begin, inputs, count, rows, sums);
    }
    for (int64_t i = 0; i < rows; i++) {
        const float value = (float)sums[i] * (job->scales[row + i] * matrix->scales[n]);
        store(job, matrix, row + i, column, n, value);
    }
}

INLINE void multiply_floats(const Job *job, const Matrix *matrix, int64_t n, int64_t row, int64_t rows, int64_t column) {
    const int64_t inputs = job->plan->inputs;
    float sums[4] = {0};
    sum_floats((const float *)matrix->weights + n * inputs, job->activations + row * inputs, inputs, inputs, rows, sums);
    for (int64_t i = 0; i < rows; i++) store(job, matrix, row + i, column, n, sums[i]);
}

/* Takes the next outputs of a job that no thread has taken: [*begin, *end) of a matrix; returns whether there are any.
   Half of a thread's part of what is left, so that threads end together, also if another program slows one down. */
INLINE int take_outputs(Job *job, const Matrix **matrix, int64_t *begin, int64_t *end, int64_t *column) {
    int64_t first = LOAD(&job->next), count, offset;
    do {
        offset = first;
        *matrix = job->plan->matrices;
        for (int64_t m = 1; m < job->plan->count && offset >= (*matrix)->outputs; m++) offset -= (*matrix)++->outputs;
        count = (job->width - first) / (2 * job->threads);
        count = count > job->least ? count : job->least;
        count = count < (*matrix)->outputs - offset ? count : (*matrix)->outputs - offset;
        if (count <= 0) return 0;
    } while (!REPLACE(&job->next, &first, first + count));
    *begin = offset, *end = offset + count, *column = first - offset;
    return 1;
}

#define WORK(name, multiply, Weight)                                                                                   \
    INLINE void name(Job *job) {                                                                                       \
        const Matrix *matrix;                                                                                          \
        const int64_t size = job->plan->inputs * (int64_t)sizeof(Weight);                                              \
        for (int64_t n, end, column; take_outputs(job, &matrix, &n, &end, &column);)                                   \
            for (; n < end; n++) {                                                                                     \
                int64_t row = 0;                                                                                       \
                request((const char *)matrix->weights + n * size, size);                                               \
                for (; row + 4 <= job->rows; row += 4) multiply(job, matrix, n, row, 4, column);                       \
                for (; row + 2 <= job->rows; row += 2) multiply(job, matrix, n, row, 2, column);                       \
                for (; row < job->rows; row++) multiply(job, matrix, n, row, 1, column);                               \
            }                                                                                                          \
    }
WORK(work_on_integers, multiply_integers, int8_t)
WORK(work_on_floats, multiply_floats, float)

/* What comes before and after products that torch computes. */
typedef struct {
    const Plan *plan;
    const float *activations;
    void *results;        /* float, or int8_t: coarse integers of all rows, then fine ones */
    float *scales;        /* of each row of integers; NULL for floats */
    const int32_t *sums;  /* products of coarse integers, then of fine ones; 2 rows x count */
    const float *residual;
    int64_t number, first, count; /* the matrix, and which of its outputs */
    int64_t rows, column, width;
    float *memory;        /* inputs for each thread */
    int64_t next;
} ManyJob;

/* Represents each value by two 8-bit integers, `coarse * BASE + fine`; returns their scale, NAN if one is not finite. */
INLINE float split_row(const float *RESTRICT row, int8_t *RESTRICT coarse, int8_t *RESTRICT fine, int64_t inputs) {
    const float largest = largest_integer(inputs);
    const float peak = largest_size(row, inputs), inverse = peak > 0 ? largest / peak : 0;
    for (int64_t i = 0; i < inputs; i++) {
        const float value = rintf(row[i] * inverse), upper = rintf(value * (1.0f / BASE));
        coarse[i] = (int8_t)(int32_t)upper;
        fine[i] = (int8_t)(int32_t)(value - upper * BASE);
    }
    return peak / largest;
}

INLINE void prepare_rows(ManyJob *job, int64_t thread) {
    const Plan *plan = job->plan;
    const int64_t inputs = plan->inputs;
    const int64_t width = inputs * (1 + (plan->before == GATED_SILU || plan->before == GATED_GELU));
    for (int64_t row; (row = TAKE(&job->next, 1)) < job->rows;) {
        const float *given = job->activations + row * width;
        float *prepared = job->scales ? job->memory + thread * inputs : (float *)job->results + row * inputs;
        const int is_prepared = plan->before || plan->columns || !job->scales;
        if (is_prepared) prepare_row(plan, given, prepared);
        int8_t *coarse = (int8_t *)job->results + row * inputs;
        if (job->scales)
            job->scales[row] = split_row(is_prepared ? prepared : given, coarse, coarse + job->rows * inputs, inputs);
    }
}

INLINE void scale_rows(ManyJob *job) {
    const Matrix *matrix = job->plan->matrices + job->number;
    const float *RESTRICT scales = matrix->scales + job->first, *RESTRICT bias = matrix->bias ? matrix->bias + job->first : NULL;
    for (int64_t row; (row = TAKE(&job->next, 1)) < job->rows;) {
        const int32_t *RESTRICT coarse = job->sums + row * job->count, *RESTRICT fine = coarse + job->rows * job->count;
        const int64_t place = row * job->width + job->column + job->first;
        float *RESTRICT result = (float *)job->results + place;
        const float scale = job->scales[row];
        for (int64_t n = 0; n < job->count; n++) {
            const double sum = (double)coarse[n] * BASE + (double)fine[n]; /* exact, as the sum of 64 bits for a few rows */
            result[n] = (float)sum * (scale * scales[n]);
        }
        if (bias)
            for (int64_t n = 0; n < job->count; n++) result[n] += bias[n];
        if (job->residual)
            for (int64_t n = 0; n < job->count; n++) result[n] += job->residual[place + n];
    }
}

/* Attention of new tokens of each row; in Python: `struct.pack("6q3d")`. */
typedef struct {
    int64_t heads, shared; /* of queries, and of keys and values: consecutive queries share them */
    int64_t size;          /* of a head */
    int64_t rotated;       /* the first values of a head, which are rotated by the position */
    const float *query_norm, *key_norm; /* weights of norms of each head, or NULL */
    double epsilon, scale, cap;         /* of the norms; of scores; the soft limit of scores, or 0 */
} Attention;

typedef struct {
    const Attention *kind;
    const float *states;     /* of each token (heads + 2 shared) x size: queries, keys, values */
    const float *cos, *sin;  /* of each token; the first half of `sin` is negative */
    float *keys, *values;    /* rows x shared x room x size */
    const int64_t *firsts;   /* the first position that each row attends to */
    float *results;          /* rows x heads x size */
    int64_t rows, room, position;
    int64_t count;           /* of new tokens of each row */
    float *scores;           /* of each thread: positions, and a query */
    int64_t next;            /* the next token that no thread has taken */
} AttentionJob;

/* Copies a query or a key, after its norm and rotation. */
INLINE void rotate(const AttentionJob *job, int64_t token, const float *norm, const float *RESTRICT state, float *RESTRICT result) {
    const Attention *kind = job->kind;
    float normed[LARGEST_HEAD];
    if (norm) {
        rms_norm(state, norm, kind->epsilon, kind->size, normed);
        state = normed;
    }
    const int64_t half = kind->rotated / 2;
    const float *RESTRICT cos = job->cos + token * kind->rotated, *RESTRICT sin = job->sin + token * kind->rotated;
    for (int64_t i = 0; i < half; i++) {
        result[i] = state[i] * cos[i] + state[half + i] * sin[i];
        result[half + i] = state[half + i] * cos[half + i] + state[i] * sin[half + i];
    }
    for (int64_t i = kind->rotated; i < kind->size; i++) result[i] = state[i];
}

/* Writes the key and value of a token into the buffers. */
INLINE void append_token(const AttentionJob *job, int64_t token) {
    const Attention *kind = job->kind;
    const int64_t width = (kind->heads + 2 * kind->shared) * kind->size;
    const int64_t row = token / job->count, position = job->position + token % job->count;
    for (int64_t head = 0; head < kind->shared; head++) {
        const float *key = job->states + token * width + (kind->heads + head) * kind->size;
        const int64_t place = ((row * kind->shared + head) * job->room + position) * kind->size;
        rotate(job, token, kind->key_norm, key, job->keys + place);
        for (int64_t i = 0; i < kind->size; i++) job->values[place + i] = key[kind->shared * kind->size + i];
    }
}

/* The same for several tokens of each row, and applies the norm and rotation of queries to them. */
INLINE void append_tokens(AttentionJob *job) {
    const Attention *kind = job->kind;
    const int64_t width = (kind->heads + 2 * kind->shared) * kind->size;
    for (int64_t token; (token = TAKE(&job->next, 1)) < job->rows * job->count;) {
        append_token(job, token);
        for (int64_t head = 0; head < kind->heads; head++) {
            float turned[LARGEST_HEAD], *query = (float *)job->states + token * width + head * kind->size;
            rotate(job, token, kind->query_norm, query, turned);
            memcpy(query, turned, (size_t)kind->size * sizeof(float));
        }
    }
}

INLINE void attend(const AttentionJob *job, int64_t row, int64_t head, float *RESTRICT scores) {
    const Attention *kind = job->kind;
    const int64_t size = kind->size, width = (kind->heads + 2 * kind->shared) * size, first = job->firsts[row];
    const int64_t count = job->position + 1 - first, shared = head / (kind->heads / kind->shared);
    const int64_t place = ((row * kind->shared + shared) * job->room + first) * size;
    const float *RESTRICT keys = job->keys + place, *RESTRICT values = job->values + place;
    float *RESTRICT query = scores + job->room, *RESTRICT result = job->results + (row * kind->heads + head) * size;
    for (int64_t i = 0; i < size; i++) result[i] = 0;
    if (count < 1) return; /* the row begins later */
    rotate(job, row, kind->query_norm, job->states + row * width + head * size, query);
    for (int64_t p = 0; p < count; p++) {
        float sum = 0;
        for (int64_t i = 0; i < size; i++) sum += query[i] * keys[p * size + i];
        sum *= (float)kind->scale;
        if (kind->cap) sum = (float)kind->cap * tanhf(sum / (float)kind->cap);
        scores[p] = sum;
    }
    const float largest = largest_of(scores, count);
    float total = 0;
    for (int64_t p = 0; p < count; p++) {
        scores[p] = exponential(scores[p] - largest);
        total += scores[p];
    }
    int64_t p = 0;
    for (; p + 4 <= count; p += 4) {
        const float *RESTRICT v = values + p * size, a = scores[p], b = scores[p + 1], c = scores[p + 2], d = scores[p + 3];
        for (int64_t i = 0; i < size; i++)
            result[i] += a * v[i] + b * v[size + i] + c * v[2 * size + i] + d * v[3 * size + i];
    }
    for (; p < count; p++)
        for (int64_t i = 0; i < size; i++) result[i] += scores[p] * values[p * size + i];
    for (int64_t i = 0; i < size; i++) result[i] /= total;
}

INLINE void attend_share(const AttentionJob *job, int64_t share, int64_t shares) {
    const int64_t tasks = job->rows * job->kind->heads;
    float *scores = job->scores + share * (job->room + job->kind->size);
    for (int64_t task = tasks * share / shares; task < tasks * (share + 1) / shares; task++)
        attend(job, task / job->kind->heads, task % job->kind->heads, scores);
}

/* Returns the natural logarithm of the sum of exponentials of a row, and where its largest value is. */
INLINE float log_sum(const float *RESTRICT row, int64_t count, int64_t *place) {
    const float largest = largest_of(row, count);
    float total = 0;
    *place = 0;
    while (*place < count - 1 && row[*place] != largest) ++*place;
    for (int64_t i = 0; i < count; i++) total += exponential(row[i] - largest);
    return largest + logf(total);
}

/* The same functions for each instruction set. */
typedef struct {
    const char *name;
    void (*work)(Job *);
    float (*round_row)(const float *, int16_t *, int64_t);
    void (*prepare_row)(const Plan *, const float *, float *);
    void (*append_token)(const AttentionJob *, int64_t);
    void (*append_tokens)(AttentionJob *);
    void (*attend_share)(const AttentionJob *, int64_t, int64_t);
    float (*log_sum)(const float *, int64_t, int64_t *);
    void (*prepare_rows)(ManyJob *, int64_t);
    void (*scale_rows)(ManyJob *);
} Variant;

#define VARIANT(name, attributes)                                                                                      \
    attributes static void work_##name(Job *job) {                                                                     \
        if (job->plan->is_integer)                                                                                     \
            work_on_integers(job);                                                                                     \
        else                                                                                                           \
            work_on_floats(job);                                                                                       \
    }                                                                                                                  \
    attributes static float round_row_##name(const float *row, int16_t *rounded, int64_t inputs) {                     \
        return round_row(row, rounded, inputs);                                                                        \
    }                                                                                                                  \
    attributes static void prepare_row_##name(const Plan *plan, const float *row, float *result) {                     \
        prepare_row(plan, row, result);                                                                                \
    }                                                                                                                  \
    attributes static void append_token_##name(const AttentionJob *job, int64_t token) { append_token(job, token); }   \
    attributes static void append_tokens_##name(AttentionJob *job) { append_tokens(job); }                             \
    attributes static void attend_share_##name(const AttentionJob *job, int64_t share, int64_t shares) {               \
        attend_share(job, share, shares);                                                                              \
    }                                                                                                                  \
    attributes static float log_sum_##name(const float *row, int64_t count, int64_t *place) {                          \
        return log_sum(row, count, place);                                                                             \
    }                                                                                                                  \
    attributes static void prepare_rows_##name(ManyJob *job, int64_t thread) { prepare_rows(job, thread); }            \
    attributes static void scale_rows_##name(ManyJob *job) { scale_rows(job); }
#define ENTRY(name)                                                                                                    \
    {#name, work_##name, round_row_##name, prepare_row_##name, append_token_##name, append_tokens_##name,              \
     attend_share_##name, log_sum_##name, prepare_rows_##name, scale_rows_##name}

#include "_variants.h"

static void work(void *job) { variant->work(job); }
static void prepare_own_rows(void *job) { variant->prepare_rows(job, thread_number()); }
static void scale_own_rows(void *job) { variant->scale_rows(job); }
static void append_own_tokens(void *job) { variant->append_tokens(job); }
static void attend_own_share(void *job) { variant->attend_share(job, thread_number(), thread_count()); }

/* Computes products; returns 0, or -1 if there is no memory. */
static int compute(Job *job, const float *activations, unsigned threads) {
    const Plan *plan = job->plan;
    const int64_t inputs = plan->inputs;
    const int is_gated = plan->before == GATED_SILU || plan->before == GATED_GELU;
    const size_t values = (size_t)job->rows * (size_t)inputs;
    float *prepared = NULL, *scales = NULL;
    int16_t *rounded = NULL;
    if ((plan->before || plan->columns) && !(prepared = malloc(values * sizeof(float) + 1))) return -1;
    if (plan->is_integer && !(rounded = malloc(values * sizeof(int16_t) + (size_t)job->rows * sizeof(float) + 8))) {
        free(prepared);
        return -1;
    }
    if (rounded) scales = (float *)(rounded + values + (values & 1));
    for (int64_t row = 0; row < job->rows; row++) {
        const float *given = activations + row * inputs * (1 + is_gated);
        if (prepared) variant->prepare_row(plan, given, prepared + row * inputs);
        if (rounded)
            scales[row] = variant->round_row(prepared ? prepared + row * inputs : given, rounded + row * inputs, inputs);
    }
    job->activations = prepared ? prepared : activations;
    job->rounded = rounded, job->scales = scales;
    job->threads = threads > 1 && run_parallel ? threads : 1;
    job->least = LEAST / (inputs * (plan->is_integer ? 1 : (int64_t)sizeof(float))) + 1;
    if (job->threads > 1)
        run_parallel(work, job, threads, 0);
    else
        work(job);
    free(prepared);
    free(rounded);
    return 0;
}

static const char multiply_doc[] =
    "multiply(plan, activations, residual, results, rows, threads)\n--\n\n"
    "Multiplies rows of activations with the matrices of a plan; all but the last two are addresses of floats, or 0.";

static PyObject *multiply(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t values[5];
    const char *plan;
    if (read_integers(arguments, count, 6, &plan, values) < 0) return NULL;
    Job job = {.plan = (const Plan *)plan, .residual = (float *)values[1], .results = (float *)values[2], .rows = values[3]};
    for (int64_t m = 0; m < job.plan->count; m++) job.width += job.plan->matrices[m].outputs;
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = compute(&job, (const float *)values[0], (unsigned)values[4]);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static const char prepare_doc[] =
    "prepare(plan, activations, results, scales, rows, threads)\n--\n\n"
    "Applies what comes before a product, and rounds rows to two 8-bit integers if there are addresses of scales.";

static PyObject *prepare(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t v[5];
    const char *plan;
    if (read_integers(arguments, count, 6, &plan, v) < 0) return NULL;
    ManyJob job = {.plan = (const Plan *)plan, .activations = (float *)v[0], .results = (void *)v[1], .scales = (float *)v[2],
                   .rows = v[3]};
    const unsigned threads = run_parallel && v[4] > 1 ? (unsigned)v[4] : 1;
    job.memory = malloc(threads * (size_t)job.plan->inputs * sizeof(float));
    if (!job.memory) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    if (threads > 1)
        run_parallel(prepare_own_rows, &job, threads, 0);
    else
        variant->prepare_rows(&job, 0);
    Py_END_ALLOW_THREADS
    free(job.memory);
    Py_RETURN_NONE;
}

static const char scale_doc[] =
    "scale(plan, matrix, first, count, sums, scales, residual, results, rows, column, threads)\n--\n\n"
    "Scales sums of integers to the outputs [first, first + count) of a matrix, whose results begin at a column.";

static PyObject *scale(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t v[10];
    const char *plan;
    if (read_integers(arguments, count, 11, &plan, v) < 0) return NULL;
    ManyJob job = {.plan = (const Plan *)plan, .number = v[0], .first = v[1], .count = v[2], .sums = (int32_t *)v[3],
                   .scales = (float *)v[4], .residual = (float *)v[5], .results = (void *)v[6], .rows = v[7], .column = v[8]};
    for (int64_t m = 0; m < job.plan->count; m++) job.width += job.plan->matrices[m].outputs;
    Py_BEGIN_ALLOW_THREADS
    if (run_parallel && v[9] > 1)
        run_parallel(scale_own_rows, &job, (unsigned)v[9], 0);
    else
        variant->scale_rows(&job);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static const char attend_doc[] =
    "attend(kind, states, cos, sin, keys, values, firsts, results, rows, room, position, threads)\n--\n\n"
    "Appends the keys and values of one token of each row, and attends to them and the earlier ones.";

static PyObject *attend_python(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t v[11];
    const char *kind;
    if (read_integers(arguments, count, 12, &kind, v) < 0) return NULL;
    AttentionJob job = {(const Attention *)kind, (float *)v[0], (float *)v[1], (float *)v[2], (float *)v[3], (float *)v[4],
                        (int64_t *)v[5], (float *)v[6], v[7], v[8], v[9], .count = 1};
    const unsigned threads = run_parallel && v[10] > 1 ? (unsigned)v[10] : 1;
    job.scores = malloc(threads * (size_t)(job.room + job.kind->size) * sizeof(float));
    if (!job.scores) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    for (int64_t row = 0; row < job.rows; row++) variant->append_token(&job, row);
    if (threads > 1)
        run_parallel(attend_own_share, &job, threads, 0);
    else
        variant->attend_share(&job, 0, 1);
    Py_END_ALLOW_THREADS
    free(job.scores);
    Py_RETURN_NONE;
}

static const char append_doc[] =
    "append(kind, states, cos, sin, keys, values, rows, count, room, position, threads)\n--\n\n"
    "Appends the keys and values of `count` tokens of each row, and normalizes and rotates their queries in place.";

static PyObject *append(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t v[10];
    const char *kind;
    if (read_integers(arguments, count, 11, &kind, v) < 0) return NULL;
    AttentionJob job = {.kind = (const Attention *)kind, .states = (float *)v[0], .cos = (float *)v[1], .sin = (float *)v[2],
                        .keys = (float *)v[3], .values = (float *)v[4], .rows = v[5], .count = v[6], .room = v[7],
                        .position = v[8]};
    Py_BEGIN_ALLOW_THREADS
    if (run_parallel && v[9] > 1)
        run_parallel(append_own_tokens, &job, (unsigned)v[9], 0);
    else
        variant->append_tokens(&job);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static const char log_sums_doc[] =
    "log_sums(logits, sums, places, rows, columns)\n--\n\n"
    "Writes the logarithm of the sum of exponentials of each row, and the place of its largest value; all are addresses.";

static PyObject *log_sums(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t v[5];
    if (read_integers(arguments, count, 5, NULL, v) < 0) return NULL;
    for (int64_t row = 0; row < v[3]; row++)
        ((float *)v[1])[row] = variant->log_sum((const float *)v[0] + row * v[4], v[4], (int64_t *)v[2] + row);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"multiply", (PyCFunction)(void (*)(void))multiply, METH_FASTCALL, multiply_doc},
    {"prepare", (PyCFunction)(void (*)(void))prepare, METH_FASTCALL, prepare_doc},
    {"scale", (PyCFunction)(void (*)(void))scale, METH_FASTCALL, scale_doc},
    {"attend", (PyCFunction)(void (*)(void))attend_python, METH_FASTCALL, attend_doc},
    {"append", (PyCFunction)(void (*)(void))append, METH_FASTCALL, append_doc},
    {"log_sums", (PyCFunction)(void (*)(void))log_sums, METH_FASTCALL, log_sums_doc},
    {"instructions", instructions, METH_NOARGS, instructions_doc},
    {"use", use, METH_O, use_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) {
    find_variant();
    find_threads();
    return PyModule_Create(&definition);
}
