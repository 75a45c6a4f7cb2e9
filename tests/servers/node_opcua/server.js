// An OPC UA server for tests, on node-opcua (part of scada-engine, Apache-2.0).
//
//     node server.js PORT PKI_FOLDER [VARIABLES [INTERVAL_MS [OPTIONS]]]
//
// Objects/Tags: ns=1;s=tag.0 .. tag.N-1, Double counters that all go 0, 1, 2, ... together, one step per interval; with
// `history` they keep it.
// Objects/Types: variables with fixed values (fixed.js). Objects/Changing: what changing.js says.
// node-opcua reads a nanosecond clock, so both timestamps of (almost) every value carry picoseconds.
//
// OPTIONS is JSON; ../node_opcua.py writes it. Lines on standard input: hold, release, set NAME NUMBER,
// service-level NUMBER.
//
// Listens on 127.0.0.1, without and with security; prints READY; ends on SIGTERM and when its standard input closes.
"use strict";

// Node 18 has it, but not as a global.
globalThis.crypto ??= require("node:crypto").webcrypto;

const path = require("node:path");
const readline = require("node:readline");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { nodesets } = require("node-opcua-nodesets");
const { SecurityPolicy } = require("node-opcua-secure-channel");
const { OPCUAServer } = require("node-opcua-server");
const { MessageSecurityMode } = require("node-opcua-types");
const { DataType, Variant, VariantArrayType } = require("node-opcua-variant");
const { addChanging } = require("./changing.js");
const { addTypes, addVariable } = require("./fixed.js");

const [port, pkiFolder, variables = "10", intervalMs = "100", json = "{}"] = process.argv.slice(2);
const options = JSON.parse(json);
const state = { holding: false, step: 0, serviceLevel: options.serviceLevel ?? 255 };

const counter = (value) => ({ dataType: DataType.Double, arrayType: VariantArrayType.Scalar, value });

function addTags(folder) {
    const tags = Array.from({ length: Number(variables) }, (_, i) => addVariable(folder, `tag.${i}`, counter(0)));
    if (options.history) {
        for (const tag of tags) {
            folder.namespace.addressSpace.installHistoricalDataNode(tag, { maxOnlineValues: 1_000_000 });
        }
    }
    return tags;
}

function startCounting(tags, changing) {
    setInterval(() => {
        if (state.holding) {
            return;
        }
        state.step += 1;
        for (const tag of tags) {
            tag.setValueFromSource(counter(state.step));
        }
        changing.step(state.step);
    }, Number(intervalMs)).unref();
}

function obey(line, changing) {
    const [command, ...rest] = line.split(" ");
    if (command === "hold" || command === "release") {
        state.holding = command === "hold";
    } else if (command === "set") {
        changing.set(rest[0], Number(rest[1]));
    } else if (command === "service-level") {
        state.serviceLevel = Number(rest[0]);
    }
}

function showServiceLevel(addressSpace) {
    const variable = addressSpace.findNode("i=2267");
    const get = () => new Variant({ dataType: DataType.Byte, value: state.serviceLevel });
    variable.bindVariable({ get }, true);
}

async function certificateManager(folder, trusted) {
    const manager = new OPCUACertificateManager({
        rootFolder: folder,
        automaticallyAcceptUnknownCertificate: trusted.length === 0,
        disableFileWatchers: true,
    });
    await manager.initialize();
    for (const der of trusted) {
        await manager.trustCertificate(Buffer.from(der, "base64"));
    }
    return manager;
}

function security() {
    const { Sign, SignAndEncrypt, None } = MessageSecurityMode;
    const policies = ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"];
    // Not Basic128Rsa15: newer versions of node no longer decrypt as it needs (CVE-2023-46809).
    policies.push(...(options.deprecated ? ["Basic256"] : []));
    return {
        securityModes: options.onlySecure ? [Sign, SignAndEncrypt] : [None, Sign, SignAndEncrypt],
        securityPolicies: [...(options.onlySecure ? [] : ["None"]), ...policies].map((name) => SecurityPolicy[name]),
        allowAnonymous: options.anonymous ?? true,
        ...(options.certificateFile && {
            certificateFile: options.certificateFile,
            privateKeyFile: options.privateKeyFile,
        }),
    };
}

async function main() {
    const server = new OPCUAServer({
        port: Number(port),
        host: "127.0.0.1",
        hostname: "127.0.0.1",
        nodesets: [nodesets.standard, path.join(__dirname, "point.NodeSet2.xml")],
        ...security(),
        serverCertificateManager: await certificateManager(pkiFolder, options.trustedClients ?? []),
        userCertificateManager: await certificateManager(path.join(pkiFolder, "users"), options.userCertificates ?? []),
        userManager: {
            isValidUser: (name, password) => (options.users ?? []).some(([n, p]) => n === name && p === password),
        },
        serverInfo: {
            applicationName: { text: "scada-engine test server" },
            ...(options.applicationUri && { applicationUri: options.applicationUri }),
        },
        serverCapabilities: options.capabilities ?? {},
    });
    await server.initialize();
    const { addressSpace } = server.engine;
    const namespace = addressSpace.getOwnNamespace();
    const { objects } = addressSpace.rootFolder;
    const folder = (name) => namespace.addFolder(objects, { browseName: name, nodeId: `s=${name}` });
    const tags = addTags(folder("Tags"));
    addTypes(folder("Types"));
    const changing = addChanging(folder("Changing"), options);
    showServiceLevel(addressSpace);
    startCounting(tags, changing);
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
    readline
        .createInterface({ input: process.stdin })
        .on("line", (line) => obey(line, changing))
        .on("close", stop);
    console.log("READY");
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
