// Workloads on DataScript. `node datascript.js FOLDER`: FOLDER/plan.json says which, the data lies
// beside it. Prints one JSON object: workload -> {ms (median of one call), slow, rows, sum}.
const d = require('datascript'), fs = require('fs');
const folder = process.argv[2];
const read = name => JSON.parse(fs.readFileSync(folder + '/' + name + '.json'));
const plan = read('plan'), graphs = read('graphs');
const results = {};
const now = () => performance.now();

// As in measure.py: a measurement during which a fixed loop was slow is made again.
const BUSY = 1.25, ATTEMPTS = 3;
let fastest = Infinity;
function calibration() {
  const found = [];
  for (let n = 0; n < 3; n++) {
    const t = now(), seen = new Map();
    let total = 0;
    for (let i = 0; i < 300000; i++) {
      const k = i & 1023;
      seen.set(k, (seen.get(k) || 0) + i);
      total += seen.get(k) % 7;
    }
    found.push(now() - t + 0 * total);
  }
  const ms = found.sort((a, b) => a - b)[1];
  fastest = Math.min(fastest, ms);
  return ms;
}
for (let i = 0; i < 10; i++) calibration();
function bench(name, f, options = {}) {
  let best = null, r;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const before = calibration();
    const [ms, answer] = median(f, options);
    const loop = Math.max(before, calibration());
    if (!best || loop < best.loop) best = { ms, loop };
    r = answer;
    if (loop < BUSY * fastest) break;
  }
  results[name] = { ...best, ...contents(r) };
}
function median(f, { samples = 10, warm = 800, target = 150, calls = 1 }) {
  let t = now(), k = 0, r;
  do { r = f(); k++; } while (now() - t < warm && k < 5000);
  const per = (now() - t) / k, reps = Math.max(1, Math.ceil(target / per)), ms = [];
  if (per > 1000) samples = Math.min(samples, 5);
  for (let i = 0; i < samples; i++) {
    t = now();
    for (let j = 0; j < reps; j++) f();
    ms.push((now() - t) / reps / calls);
  }
  return [ms.sort((a, b) => a - b)[samples >> 1], r];
}

// What the answers of all sides are compared by: rows (or entities pulled), and all numbers and
// lengths of strings added up.
function contents(r) {
  let rows = 0, sum = 0;
  const walk = x => {
    if (typeof x === 'number') sum += x;
    else if (typeof x === 'string') sum += x.length;
    else if (Array.isArray(x)) x.forEach(walk);
    else if (x && typeof x === 'object') { rows++; Object.values(x).forEach(walk); }
  };
  walk(r);
  if (Array.isArray(r) && (!r.length || Array.isArray(r[0]))) rows = r.length;
  return { rows, sum };
}

const schema = { follows: { ':db/valueType': ':db.type/ref', ':db/cardinality': ':db.cardinality/many' } };
const A = ['name', 'last-name', 'sex', 'age', 'salary'];
const uidSchema = { ...schema, uid: { ':db/unique': ':db.unique/identity' } };
A.forEach(a => uidSchema[a] = { ':db/index': true });
const empty = d.empty_db(schema);
const entity = p => ({ ':db/id': p[0], name: p[1], 'last-name': p[2], sex: p[3], age: p[4], salary: p[5] });

const made = {};
function data(name) {
  if (!(name in made)) made[name] = make(name);
  return made[name];
}
function make(name) {
  if (name === 'people') return d.db_with(empty, read('people').map(entity));
  if (name === 'people with uid') {
    return d.db_with(d.empty_db(uidSchema), read('people').map(p => ({ ...entity(p), uid: p[0] })));
  }
  if (name === 'notes') return d.init_db(read('notes').map((note, i) => [i + 1, 'note', note]), schema);
  if (name === 'big') {
    const datoms = [];
    for (const p of read('big')) for (let i = 0; i < 5; i++) datoms.push([p[0], A[i], p[i + 1]]);
    return d.init_db(datoms, schema);
  }
  const tx = [];
  for (const [id, follows, man] of graphs[name]) {
    const e = man ? { ...entity([id, ...man]), id } : { ':db/id': id, name: 'Ivan' };
    if (follows.length) e.follows = follows;
    tx.push(e);
  }
  return d.db_with(empty, tx);
}

const loads = {
  'add-all': E => d.db_with(empty, E),
  'add-5': E => { let db = empty; for (const e of E) db = d.db_with(db, [e]); },
};
for (const w of plan) {
  const options = { samples: w.samples, warm: w.warm };
  for (const k in options) if (options[k] === undefined) delete options[k];
  if (w.kind === 'load') {
    const E = read('people').map(entity);
    bench(w.name, () => { loads[w.name](E); }, options);
    continue;
  }
  const db = data(w.data);
  const calls = {
    query: () => d.q(w.query, db, ...w.inputs),
    point: () => w.ids.map(id => [d.q(w.query, db, id)]),
    pull: () => d.pull(db, w.query, w.ids[0]),
    'pull many': () => d.pull_many(db, w.query, w.ids),
  };
  bench(w.name, calls[w.kind], { ...options, calls: w.kind === 'point' ? w.ids.length : 1 });
}
// How slow the machine was is known only now: the fastest loop may be among the last.
for (const found of Object.values(results)) found.slow = found.loop / fastest;
process.stdout.write(JSON.stringify({ version: require('datascript/package.json').version, node: process.version, results }));
