/* The test server's folder Types: variables with fixed values (part of scada-engine, Apache-2.0). */
#include <math.h>

#include "options.h"

static void add_status(UA_Server *server, UA_NodeId folder, char *name, UA_StatusCode status) {
    UA_Double content = 42.5;
    add_scalar(server, folder, name, &content, UA_TYPES_DOUBLE);
    UA_DataValue value;
    UA_DataValue_init(&value);
    UA_Variant_setScalar(&value.value, &content, &UA_TYPES[UA_TYPES_DOUBLE]);
    value.hasValue = true;
    value.status = status;
    value.hasStatus = true;
    value.sourceTimestamp = UA_DateTime_now();
    value.hasSourceTimestamp = true;
    check(UA_Server_writeDataValue(server, UA_NODEID_STRING(1, name), value), name);
}

static void add_numbers(UA_Server *server, UA_NodeId folder) {
    UA_Boolean boolean = true;
    UA_SByte sbyte = -12;
    UA_Byte byte = 250;
    UA_Int16 int16 = -1234;
    UA_UInt16 uint16 = 65000;
    UA_Int32 int32 = -123456;
    UA_UInt32 uint32 = 4000000000u;
    UA_Int64 int64 = -1234567890123;
    UA_UInt64 uint64 = 1234567890123u;
    UA_Int64 int64_big = 9007199254740993; /* 2^53 + 1, the first integer that a double cannot hold */
    UA_UInt64 uint64_big = UINT64_MAX;
    UA_Float real32 = 1.5f;
    UA_Double real64 = -2.25, not_a_number = NAN, infinite = INFINITY;
    add_scalar(server, folder, "type.Boolean", &boolean, UA_TYPES_BOOLEAN);
    add_scalar(server, folder, "type.SByte", &sbyte, UA_TYPES_SBYTE);
    add_scalar(server, folder, "type.Byte", &byte, UA_TYPES_BYTE);
    add_scalar(server, folder, "type.Int16", &int16, UA_TYPES_INT16);
    add_scalar(server, folder, "type.UInt16", &uint16, UA_TYPES_UINT16);
    add_scalar(server, folder, "type.Int32", &int32, UA_TYPES_INT32);
    add_scalar(server, folder, "type.UInt32", &uint32, UA_TYPES_UINT32);
    add_scalar(server, folder, "type.Int64", &int64, UA_TYPES_INT64);
    add_scalar(server, folder, "type.UInt64", &uint64, UA_TYPES_UINT64);
    add_scalar(server, folder, "type.Int64.big", &int64_big, UA_TYPES_INT64);
    add_scalar(server, folder, "type.UInt64.big", &uint64_big, UA_TYPES_UINT64);
    add_scalar(server, folder, "type.Float", &real32, UA_TYPES_FLOAT);
    add_scalar(server, folder, "type.Double", &real64, UA_TYPES_DOUBLE);
    add_scalar(server, folder, "type.Double.nan", &not_a_number, UA_TYPES_DOUBLE);
    add_scalar(server, folder, "type.Double.infinity", &infinite, UA_TYPES_DOUBLE);
}

static void add_others(UA_Server *server, UA_NodeId folder) {
    UA_DateTime time = UA_DATETIME_UNIX_EPOCH + (UA_DateTime)1700000000 * UA_DATETIME_SEC;
    UA_StatusCode code = UA_STATUSCODE_BADTIMEOUT;
    UA_Guid guid = {0x72962B91, 0xFA75, 0x4AE6, {0x8D, 0x28, 0xB4, 0x04, 0xDC, 0x7D, 0xAF, 0x63}};
    UA_String text = UA_STRING("tank \xE2\x82\xAC 7"); /* a euro sign, in UTF-8 */
    UA_ByteString bytes = UA_BYTESTRING("\x01\x02\xFE\xFF");
    UA_LocalizedText localized = UA_LOCALIZEDTEXT("en", "running");
    UA_NodeId node = UA_NODEID_NUMERIC(0, 85);
    add_scalar(server, folder, "type.DateTime", &time, UA_TYPES_DATETIME);
    add_scalar(server, folder, "type.StatusCode", &code, UA_TYPES_STATUSCODE);
    add_scalar(server, folder, "type.Guid", &guid, UA_TYPES_GUID);
    add_scalar(server, folder, "type.String", &text, UA_TYPES_STRING);
    add_scalar(server, folder, "type.ByteString", &bytes, UA_TYPES_BYTESTRING);
    add_scalar(server, folder, "type.LocalizedText", &localized, UA_TYPES_LOCALIZEDTEXT);
    add_scalar(server, folder, "type.NodeId", &node, UA_TYPES_NODEID);

    UA_Double numbers[6] = {1, 2, 3, 4, 5, 6};
    UA_UInt32 dimensions[2] = {2, 3};
    UA_Variant array;
    UA_Variant_setArray(&array, numbers, 3, &UA_TYPES[UA_TYPES_DOUBLE]);
    add_variable(server, folder, "type.Double.array", array);
    UA_Variant_setArray(&array, numbers, 6, &UA_TYPES[UA_TYPES_DOUBLE]);
    array.arrayDimensions = dimensions;
    array.arrayDimensionsSize = 2;
    add_variable(server, folder, "type.Double.matrix", array);

    add_status(server, folder, "status.Bad", UA_STATUSCODE_BADSENSORFAILURE);
    add_status(server, folder, "status.Uncertain", UA_STATUSCODE_UNCERTAINLASTUSABLEVALUE);
}

static void add_arrays(UA_Server *server, UA_NodeId folder) {
    UA_Int32 integers[3] = {-1, 0, 1};
    UA_Boolean booleans[2] = {true, false};
    UA_String texts[3] = {UA_STRING("a"), UA_STRING("\xE2\x82\xAC"), UA_STRING("")};
    UA_Variant array;
    UA_Variant_setArray(&array, integers, 3, &UA_TYPES[UA_TYPES_INT32]);
    add_variable(server, folder, "type.Int32.array", array);
    UA_Variant_setArray(&array, booleans, 2, &UA_TYPES[UA_TYPES_BOOLEAN]);
    add_variable(server, folder, "type.Boolean.array", array);
    UA_Variant_setArray(&array, texts, 3, &UA_TYPES[UA_TYPES_STRING]);
    add_variable(server, folder, "type.String.array", array);
}

/* A variable without a value: a Variant of type Null. */
static void add_null(UA_Server *server, UA_NodeId folder, char *name) {
    UA_VariableAttributes attributes = UA_VariableAttributes_default;
    attributes.displayName = UA_LOCALIZEDTEXT("", name);
    attributes.dataType = UA_NODEID_NUMERIC(0, UA_NS0ID_BASEDATATYPE);
    attributes.valueRank = UA_VALUERANK_ANY;
    check(UA_Server_addVariableNode(server, UA_NODEID_STRING(1, name), folder, UA_NODEID_NUMERIC(0, UA_NS0ID_ORGANIZES),
                                    UA_QUALIFIEDNAME(1, name), UA_NODEID_NUMERIC(0, UA_NS0ID_BASEDATAVARIABLETYPE),
                                    attributes, NULL, NULL), name);
}

void add_fixed_values(UA_Server *server) {
    UA_NodeId folder = add_folder(server, "Types");
    add_numbers(server, folder);
    add_others(server, folder);
    add_arrays(server, folder);
    add_null(server, folder, "type.null");
}
