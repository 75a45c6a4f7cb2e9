/* The test server's folder Changing: enumerations, a structure, arrays, an analog item, a namespace that moves
 * (part of scada-engine, Apache-2.0). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

#define MOVING_NAMESPACE "urn:scada-engine:moving"

typedef struct {
    UA_Double x, y;
    UA_String name;
} Point;

static UA_DataTypeMember point_members[] = {
    {.memberName = "x", .memberType = &UA_TYPES[UA_TYPES_DOUBLE], .padding = 0},
    {.memberName = "y", .memberType = &UA_TYPES[UA_TYPES_DOUBLE], .padding = 0},
    {.memberName = "name", .memberType = &UA_TYPES[UA_TYPES_STRING], .padding = 0},
};

#define ENUMERATION(name, id) {.typeName = name, .typeId = {1, UA_NODEIDTYPE_NUMERIC, {id}}, \
    .memSize = sizeof(UA_Int32), .typeKind = UA_DATATYPEKIND_ENUM, .pointerFree = true}

static const UA_DataType types[] = {{
    .typeName = "Point",
    .typeId = {1, UA_NODEIDTYPE_NUMERIC, {3001}},
    .binaryEncodingId = {1, UA_NODEIDTYPE_NUMERIC, {3002}},
    .memSize = sizeof(Point),
    .typeKind = UA_DATATYPEKIND_STRUCTURE,
    .membersSize = 3,
    .members = point_members,
}, ENUMERATION("State", 3010), ENUMERATION("Mode", 3011)};
static const UA_DataType *const point_type = &types[0], *const state_type = &types[1], *const mode_type = &types[2];
const UA_DataTypeArray custom_types = {NULL, 3, types, false};

static UA_UInt16 moving_namespace;
static UA_Byte service_level = 255;

static UA_NodeId add_data_type(UA_Server *server, UA_UInt32 id, UA_UInt32 parent, char *name) {
    UA_DataTypeAttributes attributes = UA_DataTypeAttributes_default;
    attributes.displayName = UA_LOCALIZEDTEXT("", name);
    UA_NodeId node = UA_NODEID_NUMERIC(1, id);
    check(UA_Server_addDataTypeNode(server, node, UA_NODEID_NUMERIC(0, parent),
                                    UA_NODEID_NUMERIC(0, UA_NS0ID_HASSUBTYPE), UA_QUALIFIEDNAME(1, name),
                                    attributes, NULL, NULL), name);
    return node;
}

/* Add the property `name` with an array of `type` to a node. */
static void add_property(UA_Server *server, UA_NodeId parent, char *name, void *content, size_t length,
                         const UA_DataType *type) {
    UA_VariableAttributes attributes = UA_VariableAttributes_default;
    attributes.displayName = UA_LOCALIZEDTEXT("", name);
    if(length > 0)
        UA_Variant_setArray(&attributes.value, content, length, type);
    else
        UA_Variant_setScalar(&attributes.value, content, type);
    attributes.dataType = type->typeId;
    UA_UInt32 any_length = 0;
    attributes.valueRank = length > 0 ? UA_VALUERANK_ONE_DIMENSION : UA_VALUERANK_SCALAR;
    attributes.arrayDimensionsSize = length > 0 ? 1 : 0;
    attributes.arrayDimensions = length > 0 ? &any_length : NULL;
    check(UA_Server_addVariableNode(server, UA_NODEID_NULL, parent, UA_NODEID_NUMERIC(0, UA_NS0ID_HASPROPERTY),
                                    UA_QUALIFIEDNAME(0, name), UA_NODEID_NUMERIC(0, UA_NS0ID_PROPERTYTYPE),
                                    attributes, NULL, NULL), name);
}

static void add_typed(UA_Server *server, UA_NodeId folder, char *name, UA_NodeId data_type, UA_NodeId variable_type,
                      UA_Variant value) {
    UA_VariableAttributes attributes = UA_VariableAttributes_default;
    attributes.displayName = UA_LOCALIZEDTEXT("", name);
    attributes.value = value;
    attributes.dataType = data_type;
    attributes.valueRank = UA_VALUERANK_SCALAR;
    check(UA_Server_addVariableNode(server, UA_NODEID_STRING(1, name), folder, UA_NODEID_NUMERIC(0, UA_NS0ID_ORGANIZES),
                                    UA_QUALIFIEDNAME(1, name), variable_type, attributes, NULL, NULL), name);
}

static void add_enumerations(UA_Server *server, UA_NodeId folder) {
    UA_LocalizedText names[3] = {UA_LOCALIZEDTEXT("en", "Stopped"), UA_LOCALIZEDTEXT("en", "Running"),
                                 UA_LOCALIZEDTEXT("en", "Fault")};
    UA_NodeId state = add_data_type(server, 3010, UA_NS0ID_ENUMERATION, "State");
    add_property(server, state, "EnumStrings", names, 3, &UA_TYPES[UA_TYPES_LOCALIZEDTEXT]);

    UA_EnumValueType values[2];
    memset(values, 0, sizeof(values));
    values[0].value = 10;
    values[0].displayName = UA_LOCALIZEDTEXT("en", "Manual");
    values[1].value = 20;
    values[1].displayName = UA_LOCALIZEDTEXT("en", "Automatic");
    UA_NodeId mode = add_data_type(server, 3011, UA_NS0ID_ENUMERATION, "Mode");
    add_property(server, mode, "EnumValues", values, 2, &UA_TYPES[UA_TYPES_ENUMVALUETYPE]);

    UA_Int32 running = 1, automatic = 20;
    UA_NodeId plain = UA_NODEID_NUMERIC(0, UA_NS0ID_BASEDATAVARIABLETYPE);
    UA_Variant value;
    UA_Variant_setScalar(&value, &running, state_type);
    add_typed(server, folder, "enum.State", state, plain, value);
    UA_Variant_setScalar(&value, &automatic, mode_type);
    add_typed(server, folder, "enum.Mode", mode, plain, value);
}

static void add_structure(UA_Server *server, UA_NodeId folder) {
    UA_NodeId type = add_data_type(server, 3001, UA_NS0ID_STRUCTURE, "Point");
    UA_ObjectAttributes attributes = UA_ObjectAttributes_default;
    attributes.displayName = UA_LOCALIZEDTEXT("", "Default Binary");
    check(UA_Server_addObjectNode(server, point_type->binaryEncodingId, UA_NODEID_NULL, UA_NODEID_NULL,
                                  UA_QUALIFIEDNAME(0, "Default Binary"),
                                  UA_NODEID_NUMERIC(0, UA_NS0ID_DATATYPEENCODINGTYPE),
                                  attributes, NULL, NULL), "encoding");
    UA_ExpandedNodeId encoding = {.nodeId = point_type->binaryEncodingId};
    check(UA_Server_addReference(server, type, UA_NODEID_NUMERIC(0, UA_NS0ID_HASENCODING), encoding, true), "encoding");
    Point point = {1.5, -2.5, UA_STRING("valve")};
    UA_Variant value;
    UA_Variant_setScalar(&value, &point, point_type);
    add_typed(server, folder, "structure.Point", type, UA_NODEID_NUMERIC(0, UA_NS0ID_BASEDATAVARIABLETYPE), value);
}

static void add_analog(UA_Server *server, UA_NodeId folder) {
    UA_Double start = 100.0;
    UA_Variant value;
    UA_Variant_setScalar(&value, &start, &UA_TYPES[UA_TYPES_DOUBLE]);
    add_typed(server, folder, "analog", UA_NODEID_NUMERIC(0, UA_NS0ID_DOUBLE),
              UA_NODEID_NUMERIC(0, UA_NS0ID_ANALOGITEMTYPE), value);
    UA_Range range = {.low = 0.0, .high = 200.0};
    UA_NodeId id = UA_NODEID_STRING(1, "analog");
    check(UA_Server_writeObjectProperty_scalar(server, id, UA_QUALIFIEDNAME(0, "EURange"), &range,
                                               &UA_TYPES[UA_TYPES_RANGE]), "EURange");
    UA_EUInformation unit = {UA_STRING("http://www.opcfoundation.org/UA/units/un/cefact"), 4408652,
                             UA_LOCALIZEDTEXT("en", "\xC2\xB0" "C"), UA_LOCALIZEDTEXT("en", "degree Celsius")};
    add_property(server, id, "EngineeringUnits", &unit, 0, &UA_TYPES[UA_TYPES_EUINFORMATION]);
    add_scalar(server, folder, "plain", &start, UA_TYPES_DOUBLE);
}

static void add_arrays(UA_Server *server, UA_NodeId folder) {
    UA_Double numbers[6] = {0};
    UA_UInt32 dimensions[2] = {2, 3};
    UA_Variant array;
    UA_Variant_setArray(&array, numbers, 3, &UA_TYPES[UA_TYPES_DOUBLE]);
    add_variable(server, folder, "array.counter", array);
    UA_Variant_setArray(&array, numbers, 6, &UA_TYPES[UA_TYPES_DOUBLE]);
    array.arrayDimensions = dimensions;
    array.arrayDimensionsSize = 2;
    add_variable(server, folder, "matrix.counter", array);
}

static void add_moving(UA_Server *server, UA_NodeId folder, const Options *options) {
    if(options->namespace_before)
        UA_Server_addNamespace(server, "urn:scada-engine:in-between");
    moving_namespace = UA_Server_addNamespace(server, MOVING_NAMESPACE);
    UA_VariableAttributes attributes = UA_VariableAttributes_default;
    UA_Double zero = 0;
    attributes.displayName = UA_LOCALIZEDTEXT("", "moved");
    attributes.dataType = UA_NODEID_NUMERIC(0, UA_NS0ID_DOUBLE);
    attributes.valueRank = UA_VALUERANK_SCALAR;
    UA_Variant_setScalar(&attributes.value, &zero, &UA_TYPES[UA_TYPES_DOUBLE]);
    check(UA_Server_addVariableNode(server, UA_NODEID_STRING(moving_namespace, "moved"), folder,
                                    UA_NODEID_NUMERIC(0, UA_NS0ID_ORGANIZES),
                                    UA_QUALIFIEDNAME(moving_namespace, "moved"),
                                    UA_NODEID_NUMERIC(0, UA_NS0ID_BASEDATAVARIABLETYPE),
                                    attributes, NULL, NULL), "moved");
}

static UA_StatusCode read_service_level(UA_Server *server, const UA_NodeId *session, void *session_context,
                                        const UA_NodeId *node, void *node_context, UA_Boolean with_time,
                                        const UA_NumericRange *range, UA_DataValue *value) {
    (void)server, (void)session, (void)session_context, (void)node, (void)node_context, (void)range;
    value->hasValue = true;
    if(with_time) {
        value->hasSourceTimestamp = true;
        value->sourceTimestamp = UA_DateTime_now();
    }
    return UA_Variant_setScalarCopy(&value->value, &service_level, &UA_TYPES[UA_TYPES_BYTE]);
}

void add_changing(UA_Server *server, const Options *options) {
    UA_NodeId folder = add_folder(server, "Changing");
    add_enumerations(server, folder);
    add_structure(server, folder);
    add_analog(server, folder);
    add_arrays(server, folder);
    add_moving(server, folder, options);
    service_level = options->service_level;
    UA_DataSource source = {.read = read_service_level};
    check(UA_Server_setVariableNode_dataSource(server, UA_NODEID_NUMERIC(0, UA_NS0ID_SERVER_SERVICELEVEL), source),
          "ServiceLevel");
}

void step_changing(UA_Server *server, UA_UInt64 step) {
    UA_Double now = (UA_Double)step;
    UA_Double array[3] = {now, now + 0.5, -now};
    UA_Double matrix[6] = {now, now + 1, now + 2, -now, -now - 1, -now - 2};
    UA_UInt32 dimensions[2] = {2, 3};
    UA_Variant value;
    UA_Variant_setArray(&value, array, 3, &UA_TYPES[UA_TYPES_DOUBLE]);
    write_now(server, UA_NODEID_STRING(1, "array.counter"), &value);
    UA_Variant_setArray(&value, matrix, 6, &UA_TYPES[UA_TYPES_DOUBLE]);
    value.arrayDimensions = dimensions;
    value.arrayDimensionsSize = 2;
    write_now(server, UA_NODEID_STRING(1, "matrix.counter"), &value);
    UA_Variant_setScalar(&value, &now, &UA_TYPES[UA_TYPES_DOUBLE]);
    write_now(server, UA_NODEID_STRING(moving_namespace, "moved"), &value);
}

void obey(UA_Server *server, const char *line) {
    char name[MAX_NAME];
    double number;
    if(sscanf(line, "set %63s %lf", name, &number) == 2) {
        UA_Variant value;
        UA_Double content = number;
        UA_Int32 integer = (UA_Int32)number;
        if(strcmp(name, "enum.State") == 0)
            UA_Variant_setScalar(&value, &integer, state_type);
        else if(strcmp(name, "enum.Mode") == 0)
            UA_Variant_setScalar(&value, &integer, mode_type);
        else
            UA_Variant_setScalar(&value, &content, &UA_TYPES[UA_TYPES_DOUBLE]);
        write_now(server, UA_NODEID_STRING(1, name), &value);
    } else if(sscanf(line, "service-level %lf", &number) == 1) {
        service_level = (UA_Byte)number;
    }
}
