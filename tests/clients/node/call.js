// One call of the gRPC door by a client made from the same proto in another language.
// Usage: node call.js PROTO TARGET METHOD < {"request": {...}, "token": "...", "timeout_s": 10}
// Prints {"response": {...}} or {"status": "UNAUTHENTICATED", "details": "..."}.
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [proto, target, method] = process.argv.slice(2);
const input = JSON.parse(require("fs").readFileSync(0, "utf8"));
const definition = loader.loadSync(proto, { keepCase: true, longs: String, defaults: true });
const { BuildService } = grpc.loadPackageDefinition(definition).idp.build.v1;
const client = new BuildService(target, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
if (input.token) metadata.set("authorization", `Bearer ${input.token}`);
const deadline = new Date(Date.now() + 1000 * (input.timeout_s ?? 10));

client[method](input.request, metadata, { deadline }, (error, response) => {
  const told = error ? { status: grpc.status[error.code], details: error.details } : { response };
  console.log(JSON.stringify(told));
  client.close();
});
