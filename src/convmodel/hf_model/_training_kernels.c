/* The operations of a decoder on whole sequences other than matrix products, forward and backward.

Owns: causal attention within each window of packed rows (each token to itself and earlier ones), with rotary embeddings,
and of prompts to cached keys and values; RMS norms; gated activation functions. Activations are float or bfloat16, sums are
float. `training_kernels.py` calls it.

Each result is computed by one thread, in an order that depends neither on the number of threads nor on what else is in the
batch.
*/

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <string.h>

#include "_kernels.h"

#define WIDTH 32  /* columns of a tile of products */
#define HEIGHT 4  /* rows of a tile */
#define COLUMNS 16 /* keys that are transposed together */
#define QUERIES 32 /* queries of a head that are processed together */
#define UNITS 4   /* that each thread takes at least */
#define ROWS 16   /* rows of a norm or an activation that a thread takes together */

INLINE int64_t rounded_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }

/* bfloat16 is the upper half of a float; to nearest, ties to even. */
INLINE float bf16_to_float(uint16_t bits) {
    union {
        uint32_t bits;
        float value;
    } wide = {.bits = (uint32_t)bits << 16};
    return wide.value;
}

INLINE uint16_t float_to_bf16(float value) {
    union {
        float value;
        uint32_t bits;
    } wide = {.value = value};
    const uint32_t nearest = (wide.bits + 0x7fff + ((wide.bits >> 16) & 1)) >> 16;
    return (uint16_t)(value == value ? nearest : 0x7fc0);
}

INLINE void read_floats(const void *from, int64_t place, int is_bf16, int64_t count, float *RESTRICT to) {
    if (is_bf16) {
        const uint16_t *halves = (const uint16_t *)from + place;
        for (int64_t i = 0; i < count; i++) to[i] = bf16_to_float(halves[i]);
    } else {
        memcpy(to, (const float *)from + place, (size_t)count * sizeof(float));
    }
}

INLINE void write_floats(const float *RESTRICT from, int is_bf16, int64_t count, void *to, int64_t place) {
    if (is_bf16) {
        uint16_t *halves = (uint16_t *)to + place;
        for (int64_t i = 0; i < count; i++) halves[i] = float_to_bf16(from[i]);
    } else {
        memcpy((float *)to + place, from, (size_t)count * sizeof(float));
    }
}

enum Part { QUERY, KEY, VALUE, RESULT };

/* In Python: `struct.pack("14q2d")`. */
typedef struct {
    int64_t heads, kv_heads;  /* of queries, and of keys and values */
    int64_t size, rotated;    /* of a head, and of the part of it that is rotated */
    int64_t strides[4];       /* values between two tokens of queries, keys, values and results */
    int64_t head_strides[4];  /* values between two heads */
    int64_t is_bf16;
    int64_t sliding_window;   /* how many tokens, its own included, one attends to; 0 for all */
    double scale, cap;        /* of scores; their soft limit, or 0: without gradients */
} Attention;

/* Tokens that attend to each other: the last of the queries to all keys, each one before it to one key less. */
typedef struct {
    int64_t query, queries, key, keys; /* the first token and how many there are */
} Window;

typedef struct {
    const Attention *kind;
    const void *queries, *keys, *values;
    const float *cos, *sin;  /* of each token, or NULL */
    void *results;
    float *log_sums;         /* of each token and head, tokens x heads, or NULL */
    const void *by_results;  /* gradients; NULL in the forward pass */
    void *by_queries, *by_keys, *by_values;
    const Window *windows;
    int64_t units, longest;  /* windows times heads of keys and values, or of queries; the most keys of a window */
    int64_t together;        /* heads of queries of a unit */
    float *memory;
    int64_t room;            /* floats of memory per thread */
    int64_t next;
} AttentionJob;

/* Applies rotary embeddings (Su et al. 2021, arXiv:2104.09864) to a head's halves, or their inverse to a gradient. */
INLINE void rotate(float *RESTRICT head, const float *RESTRICT cos, const float *RESTRICT sin, int64_t rotated, int inverse) {
    const int64_t half = rotated / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = head[i], b = head[half + i];
        head[i] = a * cos[i] + (inverse ? b * sin[half + i] : -b * sin[i]);
        head[half + i] = b * cos[half + i] + (inverse ? -a * sin[i] : a * sin[half + i]);
    }
}

/* Adds to sums of 4 rows and two vectors the product of a, 4 x depth, and b, depth x two vectors. */
#define ADD_TILE(name, Vector)                                                                                         \
    INLINE void name(const float *a, int64_t row, int64_t step, const float *b, int64_t stride, int64_t depth,         \
                     float *sums, int64_t width, int is_new) {                                                         \
        Vector s00 = {0}, s01 = {0}, s10 = {0}, s11 = {0}, s20 = {0}, s21 = {0}, s30 = {0}, s31 = {0};                 \
        Vector *r0 = (Vector *)sums, *r1 = (Vector *)(sums + width), *r2 = (Vector *)(sums + 2 * width),               \
               *r3 = (Vector *)(sums + 3 * width);                                                                     \
        if (!is_new) {                                                                                                 \
            s00 = r0[0], s01 = r0[1], s10 = r1[0], s11 = r1[1];                                                        \
            s20 = r2[0], s21 = r2[1], s30 = r3[0], s31 = r3[1];                                                        \
        }                                                                                                              \
        for (int64_t i = 0; i < depth; i++) {                                                                          \
            const Vector *both = (const Vector *)(b + i * stride), left = both[0], right = both[1];                    \
            const float *x = a + i * step;                                                                             \
            s00 += x[0] * left, s01 += x[0] * right;                                                                   \
            s10 += x[row] * left, s11 += x[row] * right;                                                               \
            s20 += x[2 * row] * left, s21 += x[2 * row] * right;                                                       \
            s30 += x[3 * row] * left, s31 += x[3 * row] * right;                                                       \
        }                                                                                                              \
        r0[0] = s00, r0[1] = s01, r1[0] = s10, r1[1] = s11, r2[0] = s20, r2[1] = s21, r3[0] = s30, r3[1] = s31;        \
    }
#define VECTOR(lanes) __attribute__((vector_size((lanes) * sizeof(float)), aligned(4), may_alias))
typedef float Four VECTOR(4);
typedef float Eight VECTOR(8);
typedef float Sixteen VECTOR(16);
ADD_TILE(add_fours, Four)
ADD_TILE(add_eights, Eight)
ADD_TILE(add_sixteens, Sixteen)

/* Adds to 4 x 32 sums, in vectors of as many floats as the processor has. */
INLINE void add_tile(int lanes, const float *a, int64_t row, int64_t step, const float *b, int64_t stride, int64_t depth,
                     float *sums, int64_t width, int is_new) {
    for (int64_t i = 0; i < WIDTH; i += 2 * lanes) {
        if (lanes == 16) add_sixteens(a, row, step, b + i, stride, depth, sums + i, width, is_new);
        if (lanes == 8) add_eights(a, row, step, b + i, stride, depth, sums + i, width, is_new);
        if (lanes == 4) add_fours(a, row, step, b + i, stride, depth, sums + i, width, is_new);
    }
}

/* The memory of a thread; rows of heads have `wide` floats, those of scores `length`. */
typedef struct {
    int64_t wide, length, value_stride;
    const float *used_values; /* those of a window, and the values between two of them */
    float *keys, *values, *keys_transposed;            /* length x wide, and wide x length */
    float *values_transposed, *by_keys, *by_values;    /* in the backward pass */
    float *query, *by_result, *result; /* QUERIES x wide */
    float *scores, *by_scores;         /* QUERIES x length */
} Memory;

/* Floats of a row of scores: an odd number of cache lines, since those of rows that are 4 KiB apart displace each other. */
INLINE int64_t row_length(const AttentionJob *job) { return rounded_up(job->longest, WIDTH) + WIDTH / 2; }

INLINE int64_t memory_of(const AttentionJob *job) {
    const int64_t wide = rounded_up(job->kind->size, WIDTH), length = row_length(job);
    return (job->by_results ? 6 : 3) * length * wide + 3 * QUERIES * wide + 2 * QUERIES * length;
}

INLINE Memory divided(const AttentionJob *job, float *all) {
    const int64_t wide = rounded_up(job->kind->size, WIDTH), length = row_length(job), whole = length * wide;
    float *rest = all + (job->by_results ? 6 : 3) * whole;
    Memory m = {
        .wide = wide, .length = length, .keys = all, .values = all + whole, .keys_transposed = all + 2 * whole,
        .values_transposed = all + 3 * whole, .by_keys = all + 4 * whole, .by_values = all + 5 * whole, .query = rest,
        .by_result = rest + QUERIES * wide, .result = rest + 2 * QUERIES * wide, .scores = rest + 3 * QUERIES * wide};
    m.by_scores = m.scores + QUERIES * length;
    return m;
}

INLINE void read_head(const AttentionJob *job, const void *from, enum Part which, int64_t token, int64_t head, int is_rotated,
                      float *to) {
    const Attention *kind = job->kind;
    const int64_t place = token * kind->strides[which] + head * kind->head_strides[which];
    read_floats(from, place, (int)kind->is_bf16, kind->size, to);
    if (is_rotated && job->cos)
        rotate(to, job->cos + token * kind->rotated, job->sin + token * kind->rotated, kind->rotated, 0);
}

INLINE void write_gradient(const AttentionJob *job, void *to, enum Part which, int64_t token, int64_t head, int is_rotated,
                           float *from) {
    const Attention *kind = job->kind;
    if (is_rotated && job->cos)
        rotate(from, job->cos + token * kind->rotated, job->sin + token * kind->rotated, kind->rotated, 1);
    write_floats(from, (int)kind->is_bf16, kind->size, to, token * kind->strides[which] + head * kind->head_strides[which]);
}

/* Transposes rows of heads, as products with several queries need them. */
INLINE void transpose(const float *rows, int64_t stride, int64_t count, int64_t size, float *columns, int64_t length) {
    for (int64_t begin = 0; begin < count; begin += COLUMNS)
        for (int64_t d = 0; d < size; d++)
            for (int64_t j = begin; j < least(begin + COLUMNS, count); j++) columns[d * length + j] = rows[j * stride + d];
}

/* Reads keys and values of a window. Of those that need neither a rotation nor a conversion, the places change. */
INLINE void read_keys_and_values(const AttentionJob *job, Memory *m, const Window *window, int64_t head) {
    const Attention *kind = job->kind;
    const int64_t size = kind->size, count = window->keys, padded = rounded_up(count, WIDTH);
    const int is_direct = !job->by_results && !kind->is_bf16;
    if (is_direct && !job->cos) {
        const float *keys = (const float *)job->keys + window->key * kind->strides[KEY] + head * kind->head_strides[KEY];
        transpose(keys, kind->strides[KEY], count, size, m->keys_transposed, m->length);
    } else {
        memset(m->keys, 0, (size_t)(padded * m->wide) * sizeof(float));
        for (int64_t j = 0; j < count; j++) read_head(job, job->keys, KEY, window->key + j, head, 1, m->keys + j * m->wide);
        transpose(m->keys, m->wide, padded, size, m->keys_transposed, m->length);
    }
    if (is_direct && m->wide == size) {
        m->used_values = (const float *)job->values + window->key * kind->strides[VALUE] + head * kind->head_strides[VALUE];
        m->value_stride = kind->strides[VALUE];
        return;
    }
    memset(m->values, 0, (size_t)(padded * m->wide) * sizeof(float));
    for (int64_t j = 0; j < count; j++) read_head(job, job->values, VALUE, window->key + j, head, 0, m->values + j * m->wide);
    m->used_values = m->values, m->value_stride = m->wide;
    if (job->by_results) transpose(m->values, m->wide, padded, size, m->values_transposed, m->length);
}

/* Reads queries, multiplied by the scale, of a head; in the backward pass also results and their gradients. */
INLINE void read_queries(const AttentionJob *job, const Memory *m, int64_t first, int64_t count, int64_t head) {
    const float scale = (float)job->kind->scale;
    memset(m->query, 0, (size_t)(3 * QUERIES * m->wide) * sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        float *query = m->query + i * m->wide;
        read_head(job, job->queries, QUERY, first + i, head, 1, query);
        for (int64_t d = 0; d < m->wide; d++) query[d] *= scale;
        if (!job->by_results) continue;
        read_head(job, job->by_results, RESULT, first + i, head, 0, m->by_result + i * m->wide);
        read_head(job, job->results, RESULT, first + i, head, 0, m->result + i * m->wide);
    }
}

/* Replaces scores by probabilities, and those of tokens that are not attended to by 0; returns their logsumexp. */
INLINE float softmax(float *RESTRICT scores, int64_t begin, int64_t from, int64_t to, int64_t end) {
    const float peak = largest_of(scores + from, to - from);
    float sum = 0;
    for (int64_t j = from; j < to; j++) sum += scores[j] = exponential(scores[j] - peak);
    const float factor = 1 / sum;
    for (int64_t j = from; j < to; j++) scores[j] *= factor;
    for (int64_t j = begin; j < from; j++) scores[j] = 0;
    for (int64_t j = to; j < end; j++) scores[j] = 0;
    return peak + logf(sum);
}

/* The gradients with respect to the scores of a query: p (dp - delta), where delta = sum p dp is the product of the result
   and its gradient (Dao et al. 2022, arXiv:2205.14135). */
INLINE void differentiate(float *RESTRICT scores, float *RESTRICT by_scores, float log_sum, float delta, int64_t begin,
                          int64_t from, int64_t to, int64_t end) {
    for (int64_t j = from; j < to; j++) {
        scores[j] = exponential(scores[j] - log_sum);
        by_scores[j] = scores[j] * (by_scores[j] - delta);
    }
    for (int64_t j = begin; j < from; j++) scores[j] = by_scores[j] = 0;
    for (int64_t j = to; j < end; j++) scores[j] = by_scores[j] = 0;
}

INLINE void limit_softly(float *RESTRICT scores, int64_t from, int64_t to, float cap) {
    for (int64_t j = from; j < to; j++) scores[j] = cap - 2 * cap / (exponential(2 / cap * scores[j]) + 1); /* cap tanh(s / cap) */
}

/* The queries [start, start + count) of a head of a window. */
INLINE void attend_queries(const AttentionJob *job, const Memory *m, const Window *window, int64_t start, int64_t count,
                           int64_t head, int lanes) {
    const Attention *kind = job->kind;
    const int64_t sliding_window = kind->sliding_window, wide = m->wide, length = m->length;
    const int64_t token = window->query + start, own = window->keys - window->queries + start; /* the first query's own key */
    const int64_t begin = sliding_window ? largest(0, own + 1 - sliding_window) / WIDTH * WIDTH : 0;
    read_queries(job, m, token, count, head);
    for (int64_t row = 0; row < count; row += HEIGHT) {
        const int64_t end = rounded_up(own + least(row + HEIGHT, count), WIDTH);
        float *scores = m->scores + row * length;
        for (int64_t j = begin; j < end; j += WIDTH)
            add_tile(lanes, m->query + row * wide, wide, 1, m->keys_transposed + j, length, kind->size, scores + j, length, 1);
        for (int64_t i = 0; i < HEIGHT && row + i < count; i++) {
            const int64_t to = own + row + i + 1, from = sliding_window ? largest(0, to - sliding_window) : 0;
            if (kind->cap) limit_softly(scores + i * length, from, to, (float)kind->cap);
            const float sum = softmax(scores + i * length, begin, from, to, end);
            if (job->log_sums) job->log_sums[(token + row + i) * kind->heads + head] = sum;
        }
        const float *values = m->used_values + begin * m->value_stride;
        const int64_t depth = least(end, window->keys) - begin; /* memory after the last key may have any values */
        for (int64_t d = 0; d < wide; d += WIDTH)
            add_tile(lanes, scores + begin, length, 1, values + d, m->value_stride, depth, m->result + row * wide + d, wide, 1);
    }
    for (int64_t i = 0; i < count; i++)
        write_floats(m->result + i * wide, (int)kind->is_bf16, kind->size, job->results,
                     (token + i) * kind->strides[RESULT] + head * kind->head_strides[RESULT]);
}

INLINE void attend_queries_backward(const AttentionJob *job, const Memory *m, int64_t first, int64_t start, int64_t count,
                                    int64_t head, int lanes) {
    const Attention *kind = job->kind;
    const int64_t sliding_window = kind->sliding_window, wide = m->wide, length = m->length;
    const int64_t begin = sliding_window ? largest(0, start + 1 - sliding_window) / WIDTH * WIDTH : 0, end = rounded_up(start + count, WIDTH);
    read_queries(job, m, first + start, count, head);
    for (int64_t row = 0; row < count; row += HEIGHT) {
        const int64_t last = rounded_up(least(start + row + HEIGHT, start + count), WIDTH);
        float *scores = m->scores + row * length, *by_scores = m->by_scores + row * length;
        for (int64_t j = begin; j < last; j += WIDTH) {
            add_tile(lanes, m->query + row * wide, wide, 1, m->keys_transposed + j, length, kind->size, scores + j, length, 1);
            add_tile(lanes, m->by_result + row * wide, wide, 1, m->values_transposed + j, length, kind->size, by_scores + j, length, 1);
        }
        for (int64_t i = 0; i < HEIGHT; i++) {
            const int64_t query = start + row + i;
            if (row + i >= count) {
                memset(scores + i * length + begin, 0, (size_t)(end - begin) * sizeof(float));
                memset(by_scores + i * length + begin, 0, (size_t)(end - begin) * sizeof(float));
                continue;
            }
            float delta = 0;
            const float *result = m->result + (row + i) * wide, *by_result = m->by_result + (row + i) * wide;
            for (int64_t d = 0; d < wide; d++) delta += result[d] * by_result[d];
            differentiate(scores + i * length, by_scores + i * length, job->log_sums[(first + query) * kind->heads + head],
                          delta, begin, sliding_window ? largest(0, query + 1 - sliding_window) : 0, query + 1, end);
        }
    }
    for (int64_t row = 0; row < count; row += HEIGHT) /* in place of the results, which are not needed any more */
        for (int64_t d = 0; d < wide; d += WIDTH)
            add_tile(lanes, m->by_scores + row * length + begin, length, 1, m->keys + begin * wide + d, wide,
                     rounded_up(least(start + row + HEIGHT, start + count), WIDTH) - begin, m->result + row * wide + d, wide, 1);
    for (int64_t j = begin; j < end; j += HEIGHT) {
        const int64_t skipped = largest(0, j - start); /* queries before all of these keys */
        for (int64_t d = 0; d < wide && skipped < count; d += WIDTH) {
            add_tile(lanes, m->scores + skipped * length + j, 1, length, m->by_result + skipped * wide + d, wide, count - skipped,
                     m->by_values + j * wide + d, wide, 0);
            add_tile(lanes, m->by_scores + skipped * length + j, 1, length, m->query + skipped * wide + d, wide, count - skipped,
                     m->by_keys + j * wide + d, wide, 0);
        }
    }
    for (int64_t i = 0; i < count; i++) {
        float *by_query = m->result + i * wide;
        for (int64_t d = 0; d < kind->size; d++) by_query[d] *= (float)kind->scale;
        write_gradient(job, job->by_queries, QUERY, first + start + i, head, 1, by_query);
    }
}

/* One window and one head of keys and values, with heads of queries that share it. */
INLINE void attend_unit(const AttentionJob *job, Memory *m, int64_t unit, int lanes) {
    const Attention *kind = job->kind;
    const int64_t units = kind->heads / job->together; /* of a window */
    const Window *window = job->windows + unit / units;
    const int64_t query = unit % units * job->together, head = query / (kind->heads / kind->kv_heads);
    const int64_t first = window->key, count = window->keys;
    read_keys_and_values(job, m, window, head);
    if (job->by_results) {
        const size_t bytes = (size_t)(rounded_up(count, WIDTH) * m->wide) * sizeof(float);
        memset(m->by_keys, 0, bytes);
        memset(m->by_values, 0, bytes);
    }
    for (int64_t each = query; each < query + job->together; each++)
        for (int64_t start = 0; start < window->queries; start += QUERIES) {
            const int64_t some = least(QUERIES, window->queries - start);
            if (job->by_results)
                attend_queries_backward(job, m, first, start, some, each, lanes);
            else
                attend_queries(job, m, window, start, some, each, lanes);
        }
    for (int64_t j = 0; job->by_results && j < count; j++) {
        write_gradient(job, job->by_keys, KEY, first + j, head, 1, m->by_keys + j * m->wide);
        write_gradient(job, job->by_values, VALUE, first + j, head, 0, m->by_values + j * m->wide);
    }
}

INLINE void attend_units(AttentionJob *job, int64_t thread, int lanes) {
    Memory m = divided(job, job->memory + thread * job->room);
    for (int64_t unit; (unit = TAKE(&job->next, 1)) < job->units;) attend_unit(job, &m, unit, lanes);
}

enum Kind { NORM, NORM_BACKWARD, GATE, GATE_BACKWARD };
enum Activation { SILU, GELU }; /* GELU by its tanh approximation */

typedef struct {
    enum Kind kind;
    int64_t rows, width;
    int64_t is_bf16;       /* whether buffers of type `void` are bfloat16, except as noted */
    int64_t activation;
    const void *given;     /* of a norm rows x width, always float; of a gate rows x 2 width: gate, then up */
    const float *weights;  /* of a norm */
    float *factors;        /* of each row of a norm, 1 / root mean square */
    const void *by_result; /* rows x width */
    void *result;          /* forward rows x width; backward the shape of `given`, for a norm always float */
    float *by_weights;     /* for each block of rows, its part of the gradient with respect to a norm's weights */
    float *memory;         /* 3 x width for each thread */
    double epsilon;
    int64_t next;
} RowsJob;

INLINE void norm_row(const RowsJob *job, int64_t row, float *RESTRICT memory) {
    const float *given = (const float *)job->given + row * job->width;
    float squares = 0;
    for (int64_t i = 0; i < job->width; i++) squares += given[i] * given[i];
    const float factor = 1 / sqrtf(squares / (float)job->width + (float)job->epsilon);
    for (int64_t i = 0; i < job->width; i++) memory[i] = given[i] * factor * job->weights[i];
    job->factors[row] = factor;
    write_floats(memory, (int)job->is_bf16, job->width, job->result, row * job->width);
}

/* With n = x f and f = 1 / root mean square of x: dx = f (w dy - n mean(w dy n)), and dw = dy n. */
INLINE void norm_row_backward(const RowsJob *job, int64_t row, float *RESTRICT memory, float *RESTRICT by_weights) {
    const float *given = (const float *)job->given + row * job->width, factor = job->factors[row];
    float *result = (float *)job->result + row * job->width, sum = 0;
    read_floats(job->by_result, row * job->width, (int)job->is_bf16, job->width, memory);
    for (int64_t i = 0; i < job->width; i++) {
        by_weights[i] += memory[i] * given[i] * factor;
        memory[i] *= job->weights[i];
        sum += memory[i] * given[i];
    }
    const float mean = sum * factor * factor / (float)job->width;
    for (int64_t i = 0; i < job->width; i++) result[i] = factor * (memory[i] - given[i] * mean);
}

INLINE void gate_row(const RowsJob *job, int64_t row, float *RESTRICT memory) {
    const int64_t width = job->width;
    read_floats(job->given, row * 2 * width, (int)job->is_bf16, 2 * width, memory);
    if (job->activation == SILU)
        for (int64_t i = 0; i < width; i++) memory[i] = silu(memory[i]) * memory[width + i];
    else
        for (int64_t i = 0; i < width; i++) memory[i] = gelu(memory[i]) * memory[width + i];
    write_floats(memory, (int)job->is_bf16, width, job->result, row * width);
}

/* Both functions are x s(u), where s is the sigmoid: d/dx = s + x s (1 - s) du/dx, with u = x for SiLU. */
INLINE void gate_row_backward(const RowsJob *job, int64_t row, float *RESTRICT memory) {
    const int64_t width = job->width;
    float *up = memory + width, *by_result = memory + 2 * width;
    read_floats(job->given, row * 2 * width, (int)job->is_bf16, 2 * width, memory);
    read_floats(job->by_result, row * width, (int)job->is_bf16, width, by_result);
    const int is_silu = job->activation == SILU;
    for (int64_t i = 0; i < width; i++) {
        const float x = memory[i];
        const float u = is_silu ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
        const float slope = is_silu ? 1 : 1.5957691216f * (1 + 3 * 0.044715f * x * x);
        const float s = 1 / (1 + exponential(-u));
        memory[i] = by_result[i] * up[i] * (s + x * s * (1 - s) * slope);
        up[i] = by_result[i] * x * s;
    }
    write_floats(memory, (int)job->is_bf16, 2 * width, job->result, row * 2 * width);
}

INLINE void work_on_rows(RowsJob *job, int64_t thread) {
    float *memory = job->memory + thread * 3 * job->width;
    for (int64_t begin; (begin = TAKE(&job->next, ROWS)) < job->rows;) {
        float *by_weights = job->by_weights ? job->by_weights + begin / ROWS * job->width : NULL;
        for (int64_t row = begin; row < least(begin + ROWS, job->rows); row++) {
            if (job->kind == NORM) norm_row(job, row, memory);
            if (job->kind == NORM_BACKWARD) norm_row_backward(job, row, memory, by_weights);
            if (job->kind == GATE) gate_row(job, row, memory);
            if (job->kind == GATE_BACKWARD) gate_row_backward(job, row, memory);
        }
    }
}

/* The same functions for each instruction set. */
typedef struct {
    const char *name;
    void (*attend_units)(AttentionJob *, int64_t);
    void (*work_on_rows)(RowsJob *, int64_t);
} Variant;

#define VARIANT(name, attributes)                                                                                      \
    attributes static void attend_units_##name(AttentionJob *job, int64_t thread) {                                    \
        attend_units(job, thread, LANES_##name);                                                                       \
    }                                                                                                                  \
    attributes static void work_on_rows_##name(RowsJob *job, int64_t thread) { work_on_rows(job, thread); }
enum { LANES_plain = 4, LANES_avx2 = 8, LANES_avx512 = 16, LANES_vnni = 16 };
#define ENTRY(name) {#name, attend_units_##name, work_on_rows_##name}
#include "_variants.h"

static void attend_own_units(void *job) { variant->attend_units(job, thread_number()); }
static void work_on_own_rows(void *job) { variant->work_on_rows(job, thread_number()); }

static const char attend_doc[] =
    "attend(kind, queries, keys, values, cos, sin, results, log_sums, by_results, by_queries, by_keys, by_values, windows, "
    "count, longest, threads)\n--\n\n"
    "Attends within windows, or computes the gradients if there are those of the results; all are addresses or numbers.";

static PyObject *attend(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t v[15];
    const char *kind;
    if (read_integers(arguments, count, 16, &kind, v) < 0) return NULL;
    AttentionJob job = {
        .kind = (const Attention *)kind, .queries = (void *)v[0], .keys = (void *)v[1], .values = (void *)v[2],
        .cos = (float *)v[3], .sin = (float *)v[4], .results = (void *)v[5], .log_sums = (float *)v[6],
        .by_results = (void *)v[7], .by_queries = (void *)v[8], .by_keys = (void *)v[9], .by_values = (void *)v[10],
        .windows = (Window *)v[11], .longest = v[13]};
    const int64_t kv_heads = job.kind->kv_heads, shared = job.kind->heads / kv_heads;
    const int is_parallel = v[14] > 1 && run_parallel;
    /* Fewer heads of queries at a time where there would be too few units to keep all threads busy. */
    job.together = is_parallel && !job.by_results && v[12] * kv_heads < UNITS * v[14] ? 1 : shared;
    job.units = v[12] * job.kind->heads / job.together;
    job.room = memory_of(&job);
    const int64_t threads = is_parallel ? largest(1, least(v[14], job.units)) : 1;
    job.memory = malloc((size_t)(threads * job.room) * sizeof(float));
    if (!job.memory) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    if (threads > 1)
        run_parallel(attend_own_units, &job, (unsigned)threads, 0);
    else
        variant->attend_units(&job, 0);
    Py_END_ALLOW_THREADS
    free(job.memory);
    Py_RETURN_NONE;
}

static PyObject *on_rows(RowsJob *job, int64_t threads) {
    job->memory = malloc((size_t)(threads * 3 * job->width) * sizeof(float));
    if (!job->memory) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    if (threads > 1 && run_parallel)
        run_parallel(work_on_own_rows, job, (unsigned)threads, 0);
    else
        variant->work_on_rows(job, 0);
    Py_END_ALLOW_THREADS
    free(job->memory);
    Py_RETURN_NONE;
}

static const char norm_doc[] =
    "norm(epsilon, given, weights, factors, by_result, result, by_weights, rows, width, is_bf16, threads)\n--\n\n"
    "Divides rows by their root mean square, or computes the gradients if there is that of the result.";

static PyObject *norm(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t v[10];
    const double epsilon = count ? PyFloat_AsDouble(arguments[0]) : 0;
    if (PyErr_Occurred() || read_integers(arguments + 1, count - 1, 10, NULL, v) < 0) return NULL;
    RowsJob job = {.kind = v[3] ? NORM_BACKWARD : NORM, .given = (void *)v[0], .weights = (float *)v[1],
                   .factors = (float *)v[2], .by_result = (void *)v[3], .result = (void *)v[4], .by_weights = (float *)v[5],
                   .rows = v[6], .width = v[7], .is_bf16 = v[8], .epsilon = epsilon};
    return on_rows(&job, v[9]);
}

static const char gate_doc[] =
    "gate(given, by_result, result, rows, width, is_bf16, activation, threads)\n--\n\n"
    "Applies a gated activation function to rows, or computes the gradients if there is that of the result.";

static PyObject *gate(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    int64_t v[8];
    if (read_integers(arguments, count, 8, NULL, v) < 0) return NULL;
    RowsJob job = {.kind = v[1] ? GATE_BACKWARD : GATE, .given = (void *)v[0], .by_result = (void *)v[1],
                   .result = (void *)v[2], .rows = v[3], .width = v[4], .is_bf16 = v[5], .activation = v[6]};
    return on_rows(&job, v[7]);
}

static PyMethodDef methods[] = {
    {"attend", (PyCFunction)(void (*)(void))attend, METH_FASTCALL, attend_doc},
    {"norm", (PyCFunction)(void (*)(void))norm, METH_FASTCALL, norm_doc},
    {"gate", (PyCFunction)(void (*)(void))gate, METH_FASTCALL, gate_doc},
    {"instructions", instructions, METH_NOARGS, instructions_doc},
    {"use", use, METH_O, use_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_training_kernels", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__training_kernels(void) {
    find_variant();
    find_threads();
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntMacro(module, ROWS) < 0) Py_CLEAR(module);
    return module;
}
