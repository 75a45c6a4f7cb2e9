// The test server's folder Types: variables with fixed values (part of scada-engine, Apache-2.0).
"use strict";

const { StatusCodes } = require("node-opcua-status-code");
const { DataType, VariantArrayType } = require("node-opcua-variant");

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

// A variable without a value: a Variant of type Null.
function addNull(folder, name) {
    folder.namespace.addVariable({
        organizedBy: folder,
        browseName: name,
        nodeId: `s=${name}`,
        dataType: "BaseDataType",
        accessLevel: "CurrentRead",
        userAccessLevel: "CurrentRead",
        value: { dataType: DataType.Null },
    });
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
    const array = (name, dataType, value) =>
        addVariable(folder, name, { dataType, arrayType: VariantArrayType.Array, value });
    array("type.Int32.array", DataType.Int32, new Int32Array([-1, 0, 1]));
    array("type.Boolean.array", DataType.Boolean, [true, false]);
    array("type.String.array", DataType.String, ["a", "\u20ac", ""]);
    addNull(folder, "type.null");
    scalar("status.Bad", DataType.Double, 42.5, StatusCodes.BadSensorFailure);
    scalar("status.Uncertain", DataType.Double, 42.5, StatusCodes.UncertainLastUsableValue);
}

module.exports = { addVariable, addTypes };
