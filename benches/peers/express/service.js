// express-idempotency as in its README: for every POST, with records in memory. It is made for Express 4.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const express = require('express');
const idempotency = require('express-idempotency');

const ANSWER = fs.readFileSync(path.join(__dirname, '..', 'answer.json'));
let runs = 0;

const app = express();
app.use(express.json());
if (process.env.MODE === 'with') app.post('*', idempotency.idempotency());

// A replay also calls the handler, after the answer was sent. The README tells handlers to check for that with `isHit`.
const isHit = (req) => process.env.MODE === 'with' && idempotency.getSharedIdempotencyService().isHit(req);

function pay(req, res) {
    if (isHit(req)) return;
    runs += 1;
    res.status(201).type('json').send(ANSWER);
}

app.post('/payments', pay);
app.post('/slow/payments', (req, res) => {
    if (isHit(req)) return;
    setTimeout(() => pay(req, res), 50);
});
app.get('/runs', (req, res) => res.send(String(runs)));
app.listen(Number(process.env.PORT), '127.0.0.1');
