// The test server's folder Changing: enumerations, a structure, arrays, an analog item, a namespace that moves
// (part of scada-engine, Apache-2.0).
"use strict";

const { DataType, VariantArrayType } = require("node-opcua-variant");
const { addVariable } = require("./fixed.js");

const MOVING_NAMESPACE = "urn:scada-engine:moving";

const double = (value) => ({ dataType: DataType.Double, arrayType: VariantArrayType.Scalar, value });
const array = (value) => ({ dataType: DataType.Double, arrayType: VariantArrayType.Array, value });
const matrix = (value) => ({
    dataType: DataType.Double,
    arrayType: VariantArrayType.Matrix,
    dimensions: [2, 3],
    value: new Float64Array(value),
});

function addEnumeration(folder, name, typeName, enumeration, value) {
    const { namespace } = folder;
    const type = namespace.addEnumerationType({ browseName: typeName, enumeration });
    const variable = namespace.addVariable({
        organizedBy: folder,
        browseName: name,
        nodeId: `s=${name}`,
        dataType: type,
        minimumSamplingInterval: 0,
        value: { dataType: DataType.Int32, value },
    });
    return [name, (number) => variable.setValueFromSource({ dataType: DataType.Int32, value: number })];
}

function addPoint(folder) {
    const { namespace } = folder;
    const { addressSpace } = namespace;
    const index = addressSpace.getNamespaceIndex("urn:scada-engine:types");
    const type = addressSpace.findDataType("Point", index);
    namespace.addVariable({
        organizedBy: folder,
        browseName: "structure.Point",
        nodeId: "s=structure.Point",
        dataType: type,
        value: {
            dataType: DataType.ExtensionObject,
            value: addressSpace.constructExtensionObject(type, { x: 1.5, y: -2.5, name: "valve" }),
        },
    });
}

function addAnalog(folder) {
    const variable = folder.namespace.addAnalogDataItem({
        organizedBy: folder,
        browseName: "analog",
        nodeId: "s=analog",
        dataType: "Double",
        minimumSamplingInterval: 0,
        engineeringUnitsRange: { low: 0, high: 200 },
        engineeringUnits: {
            namespaceUri: "http://www.opcfoundation.org/UA/units/un/cefact",
            unitId: 4408652,
            displayName: { locale: "en", text: "\u00b0C" },
            description: { locale: "en", text: "degree Celsius" },
        },
    });
    variable.setValueFromSource(double(100));
    return ["analog", (number) => variable.setValueFromSource(double(number))];
}

// Return what a step of the counters and a line on standard input do to the folder.
function addChanging(folder, { namespaceBefore }) {
    const { addressSpace } = folder.namespace;
    if (namespaceBefore) {
        addressSpace.registerNamespace("urn:scada-engine:in-between");
    }
    const moving = addressSpace.registerNamespace(MOVING_NAMESPACE);
    const moved = moving.addVariable({
        organizedBy: folder,
        browseName: "moved",
        nodeId: "s=moved",
        dataType: "Double",
        minimumSamplingInterval: 0,
    });
    moved.setValueFromSource(double(0));
    const list = addVariable(folder, "array.counter", array(new Float64Array(3)));
    const table = addVariable(folder, "matrix.counter", matrix([0, 0, 0, 0, 0, 0]));
    const plain = addVariable(folder, "plain", double(100));
    addPoint(folder);
    const settable = new Map([
        addEnumeration(folder, "enum.State", "State", ["Stopped", "Running", "Fault"], 1),
        addEnumeration(
            folder,
            "enum.Mode",
            "Mode",
            [
                { displayName: "Manual", value: 10 },
                { displayName: "Automatic", value: 20 },
            ],
            20,
        ),
        addAnalog(folder),
        ["plain", (number) => plain.setValueFromSource(double(number))],
    ]);
    return {
        step(now) {
            moved.setValueFromSource(double(now));
            list.setValueFromSource(array(new Float64Array([now, now + 0.5, -now])));
            table.setValueFromSource(matrix([now, now + 1, now + 2, -now, -now - 1, -now - 2]));
        },
        set(name, number) {
            settable.get(name)?.(number);
        },
    };
}

module.exports = { addChanging };
