// The standard workloads on DataScript. Prints one JSON object: workload -> median milliseconds.
const d = require('datascript'), fs = require('fs');
const data = process.argv[2];
const P = JSON.parse(fs.readFileSync(data + '/people.json'));
const G = JSON.parse(fs.readFileSync(data + '/graphs.json'));
const out = {}, sizes = {};
const now = () => performance.now();
function bench(name, f, { samples = 9, warm = 700, target = 120 } = {}) {
  let t = now(), k = 0, r;
  do { r = f(); k++; } while (now() - t < warm && k < 3000);
  const reps = Math.max(1, Math.ceil(target / ((now() - t) / k))), ms = [];
  for (let i = 0; i < samples; i++) {
    t = now();
    for (let j = 0; j < reps; j++) f();
    ms.push((now() - t) / reps);
  }
  out[name] = ms.sort((a, b) => a - b)[samples >> 1];
  if (r && r.length !== undefined) sizes[name] = r.length;
}
const schema = { follows: { ':db/valueType': ':db.type/ref', ':db/cardinality': ':db.cardinality/many' } };
const empty = d.empty_db(schema);
const E = P.map(p => ({ ':db/id': p[0], name: p[1], 'last-name': p[2], sex: p[3], age: p[4], salary: p[5] }));
bench('add-all', () => { d.db_with(empty, E); }, { samples: 5 });
bench('add-5', () => { let db = empty; for (const e of E) db = d.db_with(db, [e]); }, { samples: 3, warm: 1500 });
const db = d.db_with(empty, E);
const Q = {
  q1: '[:find ?e :where [?e "name" "Ivan"]]',
  q2: '[:find ?e ?a :where [?e "name" "Ivan"] [?e "age" ?a]]',
  q3: '[:find ?e ?a :where [?e "name" "Ivan"] [?e "age" ?a] [?e "sex" "male"]]',
  q4: '[:find ?e ?l ?a :where [?e "name" "Ivan"] [?e "last-name" ?l] [?e "age" ?a] [?e "sex" "male"]]',
  qpred1: '[:find ?e ?s :where [?e "salary" ?s] [(> ?s 50000)]]',
  qpred2: '[:find ?e ?s :in $ ?min :where [?e "salary" ?s] [(> ?s ?min)]]',
  group: '[:find ?n (avg ?s) (count ?e) :where [?e "name" ?n] [?e "salary" ?s]]',
};
for (const k in Q) bench(k, () => k === 'qpred2' ? d.q(Q[k], db, 50000) : d.q(Q[k], db));
const RULE = '[[(follows ?x ?y) [?x "follows" ?y]] [(follows ?x ?y) [?x "follows" ?t] (follows ?t ?y)]]';
for (const g in G) {
  const gdb = d.db_with(empty, G[g].map(([a, b]) => [':db/add', a, 'follows', b]));
  bench('rules ' + g, () => d.q('[:find ?e ?e2 :in $ % :where (follows ?e ?e2)]', gdb, RULE), { samples: 5 });
}
const ids = P.slice(0, 1000).map(p => p[0]);
bench('pull of 1,000', () => d.pull_many(db, '["name" "last-name" "age"]', ids));
process.stdout.write(JSON.stringify({ version: require('datascript/package.json').version, node: process.version, ms: out, sizes }));
