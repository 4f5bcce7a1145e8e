// The layers of GPT-2 and Llama with int8 weights: the same integers, scales and roundings as convmodel's compiled layers.

const LARGEST_WEIGHT = 127;
const LARGEST = 2 * LARGEST_WEIGHT ** 2; // integer of an activation
const PIECE = 1024; // inputs whose products are summed in 32 bits
const HALF_EVEN = 1.5 * 2 ** 52; // adding and subtracting it rounds to the nearest integer

/**
 * A linear layer with int8 weights; activations are rounded to integers of up to 15 bits, and sums are exact.
 * Four weights are read at a time, as one word, since reading takes longer than multiplying.
 */
export class Int8Linear {
  constructor(arrays, name, inputs) {
    const rows = arrays[name];
    this.words = new Int32Array(rows.buffer, rows.byteOffset, rows.length / 4);
    this.scales = arrays[`${name}.scales`];
    this.columns = arrays[`${name}.columns`];
    this.scaled = new Float32Array(inputs);
    this.bias = arrays[`${name}.bias`] ?? new Float32Array(this.scales.length);
    this.largest = Math.min(Math.floor((2 ** 31 - 1) / LARGEST_WEIGHT / Math.min(inputs, PIECE)), LARGEST);
    this.integers = new Int32Array(rows.length / this.scales.length); // rows are filled up with zeros
    this.results = new Float32Array(this.scales.length);
  }

  /** Multiplies activations by the scales of columns, and rounds them; returns their scale. */
  round(values) {
    const { integers, largest, scaled, columns } = this;
    let peak = 0;
    for (let i = 0; i < values.length; i += 1) {
      scaled[i] = values[i] * columns[i];
      peak = Math.max(peak, Math.abs(scaled[i]));
    }
    const inverse = peak > 0 ? Math.fround(largest / peak) : 0;
    for (let i = 0; i < values.length; i += 1) integers[i] = Math.fround(scaled[i] * inverse) + HALF_EVEN - HALF_EVEN;
    return Math.fround(peak / largest);
  }

  /** Returns the product with activations, which the next call overwrites. */
  multiply(values) {
    const { words, integers, results } = this;
    const stride = integers.length / 4;
    const scale = this.round(values);
    // Two rows at a time read each activation once; the last two may overlap with those before.
    for (let next = 0; next < results.length; next += 2) {
      const row = Math.min(next, results.length - 2);
      let sumA = 0;
      let sumB = 0;
      for (let begin = 0; begin < integers.length; begin += PIECE) {
        const end = Math.min(begin + PIECE, integers.length);
        let a = 0;
        let b = 0;
        let at = row * stride + begin / 4;
        for (let i = begin; i < end; i += 4, at += 1) {
          const u = words[at];
          const v = words[at + stride];
          const x0 = integers[i];
          const x1 = integers[i + 1];
          const x2 = integers[i + 2];
          const x3 = integers[i + 3];
          a = (a + Math.imul(u << 24 >> 24, x0) + Math.imul(u << 16 >> 24, x1) + Math.imul(u << 8 >> 24, x2) + Math.imul(u >> 24, x3)) | 0;
          b = (b + Math.imul(v << 24 >> 24, x0) + Math.imul(v << 16 >> 24, x1) + Math.imul(v << 8 >> 24, x2) + Math.imul(v >> 24, x3)) | 0;
        }
        sumA += a;
        sumB += b;
      }
      this.store(row, sumA, scale);
      this.store(row + 1, sumB, scale);
    }
    return results;
  }

  store(row, sum, scale) {
    this.results[row] = Math.fround(Math.fround(sum) * Math.fround(scale * this.scales[row])) + this.bias[row];
  }
}

/** A layer norm, or a norm by the root mean square, which has no bias. */
export class Norm {
  constructor(arrays, name, epsilon) {
    this.weight = arrays[`${name}.weight`];
    this.isRms = !(`${name}.bias` in arrays);
    this.bias = arrays[`${name}.bias`] ?? new Float32Array(this.weight.length);
    this.epsilon = epsilon;
    this.results = new Float32Array(this.weight.length);
  }

  /** Returns normed values, which the next call overwrites. */
  apply(values) {
    const { length } = values;
    let [sum, squares] = [0, 0];
    if (!this.isRms) for (let i = 0; i < length; i += 1) sum += values[i];
    const mean = sum / length;
    for (let i = 0; i < length; i += 1) squares += (values[i] - mean) ** 2;
    const factor = 1 / Math.sqrt(squares / length + this.epsilon);
    for (let i = 0; i < length; i += 1) this.results[i] = (values[i] - mean) * factor * this.weight[i] + this.bias[i];
    return this.results;
  }
}

/** The rotary position embedding; one for all layers. */
export class Rotary {
  /** @param {Float32Array} frequencies the angles per position, half as many as a head has numbers */
  constructor(frequencies) {
    this.frequencies = frequencies;
    this.cosines = new Float32Array(frequencies.length);
    this.sines = new Float32Array(frequencies.length);
  }

  /** Sets the position of the next queries and keys. */
  moveTo(position) {
    this.frequencies.forEach((frequency, i) => {
      const angle = Math.fround(position * frequency); // rounded as in Python, since large angles lose their last digits
      this.cosines[i] = Math.cos(angle);
      this.sines[i] = Math.sin(angle);
    });
  }

  /** Rotates the first heads of some states in place: the numbers in a head's first half with those in its second. */
  rotate(states, heads) {
    const { cosines, sines } = this;
    const half = cosines.length;
    for (let head = 0, at = 0; head < heads; head += 1, at += half) {
      for (let i = 0; i < half; i += 1, at += 1) {
        const [left, right] = [states[at], states[at + half]];
        states[at] = left * cosines[i] - right * sines[i];
        states[at + half] = right * cosines[i] + left * sines[i];
      }
    }
  }
}

/** Attention, with the keys and values of all positions so far; several heads of queries may share one of keys. */
class Attention {
  constructor({ heads, keyHeads, headSize }) {
    Object.assign(this, { heads, keyHeads, headSize });
    this.stride = keyHeads * headSize;
    this.keys = new Float32Array(0);
    this.values = new Float32Array(0);
    this.scores = new Float64Array(0);
    this.results = new Float32Array(heads * headSize);
  }

  /** Returns the result for a position's queries, keys and values; later ones are not read. */
  apply(states, position) {
    const { heads, keyHeads, headSize, stride } = this;
    if (position === this.scores.length) this.grow();
    const key = heads * headSize;
    this.keys.set(states.subarray(key, key + stride), position * stride);
    this.values.set(states.subarray(key + stride), position * stride);
    for (let head = 0; head < heads; head += 1) {
      const shared = Math.floor(head * keyHeads / heads);
      this.attend(states, head * headSize, shared * headSize, position);
    }
    return this.results;
  }

  /** Makes room for twice as many positions: few conversations need all that a model has. */
  grow() {
    const positions = Math.max(64, 2 * this.scores.length);
    const longer = (numbers) => {
      const result = new Float32Array(positions * this.stride);
      result.set(numbers);
      return result;
    };
    this.keys = longer(this.keys);
    this.values = longer(this.values);
    this.scores = new Float64Array(positions);
  }

  /** Attends to all positions up to this one, with the head whose query begins at `begin` and its keys at `shared`. */
  attend(states, begin, shared, position) {
    const { keys, values, scores, results, stride, headSize } = this;
    let [peak, total] = [-Infinity, 0];
    for (let other = 0; other <= position; other += 1) {
      let sum = 0;
      for (let i = 0, at = other * stride + shared; i < headSize; i += 1, at += 1) sum += states[begin + i] * keys[at];
      scores[other] = sum / Math.sqrt(headSize);
      peak = Math.max(peak, scores[other]);
    }
    for (let other = 0; other <= position; other += 1) {
      scores[other] = Math.exp(scores[other] - peak);
      total += scores[other];
    }
    const end = begin + headSize;
    results.fill(0, begin, end);
    for (let other = 0; other <= position; other += 1) {
      const weight = scores[other] / total;
      for (let i = begin, at = other * stride + shared; i < end; i += 1, at += 1) results[i] += weight * values[at];
    }
  }
}

/** One layer: attention, then a feed-forward network, each added to its input. */
export class Block {
  /** @param {Rotary|null} rotary null if the position is in the hidden state */
  constructor(arrays, name, shape, rotary) {
    const { width, heads, keyHeads, headSize, isGated, epsilon } = shape;
    const linear = (part, inputs) => new Int8Linear(arrays, `${name}.${part}`, inputs);
    this.attentionNorm = new Norm(arrays, `${name}.attention_norm`, epsilon);
    this.queryKeyValue = linear("query_key_value", width);
    this.attention = new Attention(shape);
    this.attentionOutput = linear("attention_output", heads * headSize);
    this.mlpNorm = new Norm(arrays, `${name}.mlp_norm`, epsilon);
    this.up = linear("up", width);
    this.activate = isGated ? gatedSilu : gelu;
    this.down = linear("down", isGated ? this.up.results.length / 2 : this.up.results.length);
    Object.assign(this, { rotary, rotated: heads + keyHeads });
  }

  /** Updates the hidden state of a position. */
  apply(hidden, position) {
    const states = this.queryKeyValue.multiply(this.attentionNorm.apply(hidden));
    this.rotary?.rotate(states, this.rotated);
    add(hidden, this.attentionOutput.multiply(this.attention.apply(states, position)));
    const activations = this.activate(this.up.multiply(this.mlpNorm.apply(hidden)));
    add(hidden, this.down.multiply(activations));
  }
}

function add(sums, values) {
  for (let i = 0; i < sums.length; i += 1) sums[i] += values[i];
}

/** Applies the tanh approximation of GELU in place. */
function gelu(values) {
  for (let i = 0; i < values.length; i += 1) {
    const x = values[i];
    values[i] = x / (1 + Math.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)));
  }
  return values;
}

/** Multiplies the second half of some values by SiLU of the first, in place of the first. */
function gatedSilu(values) {
  const half = values.length / 2;
  for (let i = 0; i < half; i += 1) values[i] = Math.fround(values[i] / (1 + Math.exp(-values[i]))) * values[half + i];
  return values.subarray(0, half);
}
