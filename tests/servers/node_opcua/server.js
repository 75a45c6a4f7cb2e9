// An OPC UA server for tests, on node-opcua (part of scada-engine, Apache-2.0).
//
//     node server.js PORT PKI_FOLDER [VARIABLES [INTERVAL_MS]]
//
// Objects/Tags: ns=1;s=tag.0 .. tag.N-1, Double counters that all go 0, 1, 2, ... together, one step per interval.
// Objects/Types: variables with fixed values (../node_opcua.py lists them).
// node-opcua reads a nanosecond clock, so both timestamps of (almost) every value carry picoseconds.
//
// Listens on 127.0.0.1, without and with security; prints READY; ends on SIGTERM and when its standard input closes.
"use strict";

// Node 18 has it, but not as a global.
globalThis.crypto ??= require("node:crypto").webcrypto;

const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { OPCUAServer } = require("node-opcua-server");
const { StatusCodes } = require("node-opcua-status-code");
const { DataType, VariantArrayType } = require("node-opcua-variant");

const [port, pkiFolder, variables = "10", intervalMs = "100"] = process.argv.slice(2);

function addVariable(folder, name, variant, statusCode = StatusCodes.Good) {
    const { dataType, arrayType } = variant;
    const variable = folder.namespace.addVariable({
        organizedBy: folder,
        browseName: name,
        nodeId: `s=${name}`,
        dataType,
        valueRank: { [VariantArrayType.Array]: 1, [VariantArrayType.Matrix]: 2 }[arrayType] ?? -1,
        arrayDimensions: { [VariantArrayType.Array]: [0], [VariantArrayType.Matrix]: [0, 0] }[arrayType],
        minimumSamplingInterval: 0,
        accessLevel: "CurrentRead",
        userAccessLevel: "CurrentRead",
    });
    variable.setValueFromSource(variant, statusCode);
    return variable;
}

// node-opcua holds a 64-bit integer as a pair of 32-bit halves.
function int64(value) {
    const bits = BigInt.asUintN(64, value);
    return [Number(bits >> 32n), Number(bits & 0xffff_ffffn)];
}

function addTypes(folder) {
    const scalar = (name, dataType, value, statusCode) =>
        addVariable(folder, name, { dataType, arrayType: VariantArrayType.Scalar, value }, statusCode);
    scalar("type.Boolean", DataType.Boolean, true);
    scalar("type.SByte", DataType.SByte, -12);
    scalar("type.Byte", DataType.Byte, 250);
    scalar("type.Int16", DataType.Int16, -1234);
    scalar("type.UInt16", DataType.UInt16, 65000);
    scalar("type.Int32", DataType.Int32, -123456);
    scalar("type.UInt32", DataType.UInt32, 4000000000);
    scalar("type.Int64", DataType.Int64, int64(-1234567890123n));
    scalar("type.UInt64", DataType.UInt64, int64(1234567890123n));
    scalar("type.Int64.big", DataType.Int64, int64(2n ** 53n + 1n));
    scalar("type.Float", DataType.Float, 1.5);
    scalar("type.Double", DataType.Double, -2.25);
    scalar("type.String", DataType.String, "tank \u20ac 7");
    scalar("type.DateTime", DataType.DateTime, new Date(1_700_000_000_000));
    scalar("type.Guid", DataType.Guid, "72962B91-FA75-4AE6-8D28-B404DC7DAF63");
    scalar("type.ByteString", DataType.ByteString, Buffer.from([1, 2, 254, 255]));
    scalar("type.StatusCode", DataType.StatusCode, StatusCodes.BadTimeout);
    addVariable(folder, "type.Double.array", {
        dataType: DataType.Double,
        arrayType: VariantArrayType.Array,
        value: new Float64Array([1, 2, 3]),
    });
    addVariable(folder, "type.Double.matrix", {
        dataType: DataType.Double,
        arrayType: VariantArrayType.Matrix,
        dimensions: [2, 3],
        value: new Float64Array([1, 2, 3, 4, 5, 6]),
    });
    scalar("status.Bad", DataType.Double, 42.5, StatusCodes.BadSensorFailure);
    scalar("status.Uncertain", DataType.Double, 42.5, StatusCodes.UncertainLastUsableValue);
}

function addTags(folder) {
    const counter = (value) => ({ dataType: DataType.Double, arrayType: VariantArrayType.Scalar, value });
    const tags = Array.from({ length: Number(variables) }, (_, i) => addVariable(folder, `tag.${i}`, counter(0)));
    let step = 0;
    setInterval(() => {
        step += 1;
        for (const tag of tags) {
            tag.setValueFromSource(counter(step));
        }
    }, Number(intervalMs)).unref();
}

async function main() {
    const certificates = new OPCUACertificateManager({
        rootFolder: pkiFolder,
        automaticallyAcceptUnknownCertificate: true,
        disableFileWatchers: true,
    });
    await certificates.initialize();
    const server = new OPCUAServer({
        port: Number(port),
        host: "127.0.0.1",
        hostname: "127.0.0.1",
        serverCertificateManager: certificates,
        userCertificateManager: certificates,
        serverInfo: { applicationName: { text: "scada-engine test server" } },
    });
    await server.initialize();
    const { addressSpace } = server.engine;
    const namespace = addressSpace.getOwnNamespace();
    const { objects } = addressSpace.rootFolder;
    const folder = (name) => namespace.addFolder(objects, { browseName: name, nodeId: `s=${name}` });
    addTags(folder("Tags"));
    addTypes(folder("Types"));
    await server.start();

    let stopping = false;
    const stop = async () => {
        if (!stopping) {
            stopping = true;
            await server.shutdown(0);
            process.exit(0);
        }
    };
    process.on("SIGTERM", stop);
    process.on("SIGINT", stop);
    process.stdin.on("end", stop).on("close", stop).resume();
    console.log("READY");
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
