'use strict';

// The REST API of the contract in memory, guarded by npm's hawk.
//
//   node server.js OPTIONS.json
//
// Options: key, secret, port, modules (package.json beside node_modules), plans (study → plan),
// state (a file that drops outlive a restart in). What `POST /_control` may change while it runs:
// plans, clock_offset (seconds that this server's clock is ahead), unsigned (no
// Server-Authorization), fail ({status, count, detail, headers}: the next requests get that), lose
// (so many answers are thrown away after their effect).
// `GET /_drops` tells everything that came in. Both are unsigned: this listens on loopback only.

const Crypto = require('crypto');
const Fs = require('fs');
const Http = require('http');
const { createRequire } = require('module');

const options = JSON.parse(Fs.readFileSync(process.argv[2], 'utf8'));
// The modules lie in the peers' cache, not beside this file.
const Hawk = createRequire(options.modules)('hawk');

const knobs = { plans: {}, clock_offset: 0, unsigned: false, fail: null, lose: 0 };
for (const name of Object.keys(knobs)) {
    if (name in options) {
        knobs[name] = options[name];
    }
}

const drops = new Map(); // id → {id, key, announcement, reports, repeats}
if (options.state && Fs.existsSync(options.state)) {
    for (const drop of JSON.parse(Fs.readFileSync(options.state, 'utf8'))) {
        drops.set(drop.id, drop);
    }
}

function remember() {
    if (options.state) {
        Fs.writeFileSync(options.state + '.new', JSON.stringify([...drops.values()]));
        Fs.renameSync(options.state + '.new', options.state);
    }
}

const nonces = new Map(); // nonce and time → when it may be forgotten, ms

function checkNonce(key, nonce, ts) {
    const now = Date.now();
    for (const [seen, until] of nonces) {
        if (until > now) {
            break;
        }
        nonces.delete(seen);
    }
    const name = `${nonce} ${ts}`;
    if (nonces.has(name)) {
        throw new Error('seen before');
    }
    nonces.set(name, now + 180_000);
}

function canonical(value) {
    if (Array.isArray(value)) {
        return '[' + value.map(canonical).join(',') + ']';
    }
    if (value && typeof value === 'object') {
        const names = Object.keys(value).sort();
        return '{' + names.map((name) => JSON.stringify(name) + ':' + canonical(value[name])).join(',') + '}';
    }
    return JSON.stringify(value);
}

function refuse(status, detail) {
    return { status, body: { detail } };
}

function studyProblem(study, size) {
    const plan = knobs.plans[study];
    if (!plan) {
        return refuse(404, `Study ${study} is not known here.`);
    }
    if (plan.open === false) {
        return refuse(403, `Study ${study} is closed.`);
    }
    if (size !== undefined && size !== null && plan.max_size && size > plan.max_size) {
        return refuse(413, `Uploads to study ${study} may have ${plan.max_size} bytes.`);
    }
    return null;
}

function announce(body, idempotencyKey) {
    const earlier = [...drops.values()].find((drop) => idempotencyKey && drop.key === idempotencyKey);
    if (earlier) {
        return { status: 200, body: { id: earlier.id } };
    }
    const problem = studyProblem(body.study, body.size);
    if (problem) {
        return problem;
    }
    const id = Crypto.randomUUID();
    drops.set(id, { id, key: idempotencyKey, announcement: body, reports: [], repeats: 0 });
    remember();
    return { status: 201, body: { id } };
}

function report(id, body) {
    const drop = drops.get(id);
    if (!drop) {
        return refuse(404, `No upload ${id} was announced.`);
    }
    const earlier = drop.reports.find((known) => known.report === body.report);
    if (!earlier) {
        drop.reports.push(body);
        remember();
        return { status: 201, body: {} };
    }
    drop.repeats += 1;
    return canonical(earlier) === canonical(body)
        ? { status: 200, body: {} }
        : refuse(409, `Report ${body.report} came before, with another body.`);
}

function route(method, path, text, headers) {
    const parts = path.split('/').filter(Boolean).map(decodeURIComponent);
    if (method === 'GET' && parts.length === 2 && parts[0] === 'studies') {
        const plan = knobs.plans[parts[1]];
        return studyProblem(parts[1]) || { status: 200, body: { study: parts[1], ...plan } };
    }
    if (method === 'POST') {
        const body = JSON.parse(text);
        if (parts.length === 1 && parts[0] === 'uploads') {
            return announce(body, headers['idempotency-key']);
        }
        if (parts.length === 3 && parts[0] === 'uploads' && parts[2] === 'reports') {
            return report(parts[1], body);
        }
    }
    return refuse(404, 'Nothing is here.');
}

function clockMs() {
    return Date.now() + knobs.clock_offset * 1000;
}

function send(response, status, body, headers = {}) {
    const text = JSON.stringify(body);
    response.writeHead(status, {
        'Content-Type': 'application/json',
        'Content-Length': Buffer.byteLength(text),
        Date: new Date(clockMs()).toUTCString(),
        ...headers,
    });
    response.end(text);
}

async function answerSigned(request, response, payload) {
    if (knobs.fail && knobs.fail.count > 0) {
        const { status, detail, headers } = knobs.fail;
        knobs.fail.count -= 1;
        return send(response, status, { detail: detail || 'As the test wants it.' }, headers);
    }
    let signed;
    try {
        signed = await Hawk.server.authenticate(
            request,
            (id) => (id === options.key ? { key: options.secret, algorithm: 'sha256' } : null),
            { payload, nonceFunc: checkNonce, localtimeOffsetMsec: knobs.clock_offset * 1000 },
        );
    } catch (error) {
        const status = error.isBoom ? error.output.statusCode : 500;
        const headers = error.isBoom ? error.output.headers : {};
        return send(response, status, { detail: error.message }, headers);
    }
    const path = new URL(request.url, 'http://localhost').pathname;
    let answer;
    try {
        answer = route(request.method, path, payload.toString('utf8'), request.headers);
    } catch (error) {
        answer = refuse(400, 'That is not understood.');
    }
    if (knobs.lose > 0) {
        knobs.lose -= 1;
        return request.socket.destroy();
    }
    const headers = {};
    if (!knobs.unsigned) {
        headers['Server-Authorization'] = Hawk.server.header(signed.credentials, signed.artifacts, {
            payload: JSON.stringify(answer.body),
            contentType: 'application/json',
        });
    }
    return send(response, answer.status, answer.body, headers);
}

function answer(request, response, payload) {
    if (request.method === 'GET' && request.url === '/_drops') {
        return send(response, 200, [...drops.values()]);
    }
    if (request.method === 'POST' && request.url === '/_control') {
        Object.assign(knobs, JSON.parse(payload.toString('utf8')));
        return send(response, 200, {});
    }
    return answerSigned(request, response, payload);
}

const server = Http.createServer((request, response) => {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => answer(request, response, Buffer.concat(chunks)));
});
server.listen(options.port, '127.0.0.1');
