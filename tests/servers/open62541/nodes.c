/* Adds nodes to the test server's address space (part of scada-engine, Apache-2.0). */
#include <stdio.h>
#include <stdlib.h>

#include "options.h"

void check(UA_StatusCode status, const char *what) {
    if(status == UA_STATUSCODE_GOOD)
        return;
    fprintf(stderr, "%s: %s\n", what, UA_StatusCode_name(status));
    exit(1);
}

UA_NodeId add_folder(UA_Server *server, char *name) {
    UA_ObjectAttributes attributes = UA_ObjectAttributes_default;
    attributes.displayName = UA_LOCALIZEDTEXT("", name);
    UA_NodeId id = UA_NODEID_STRING(1, name);
    check(UA_Server_addObjectNode(server, id, UA_NODEID_NUMERIC(0, UA_NS0ID_OBJECTSFOLDER),
                                  UA_NODEID_NUMERIC(0, UA_NS0ID_ORGANIZES), UA_QUALIFIEDNAME(1, name),
                                  UA_NODEID_NUMERIC(0, UA_NS0ID_FOLDERTYPE), attributes, NULL, NULL), name);
    return id;
}

/* Add a variable with the value that `value` holds; the caller keeps `value`. */
void add_variable(UA_Server *server, UA_NodeId folder, char *name, UA_Variant value) {
    UA_VariableAttributes attributes = UA_VariableAttributes_default;
    attributes.displayName = UA_LOCALIZEDTEXT("", name);
    attributes.value = value;
    attributes.dataType = value.type->typeId;
    attributes.valueRank = UA_VALUERANK_SCALAR;
    UA_UInt32 any_length[2] = {0, 0};
    if(value.arrayLength > 0) {
        attributes.arrayDimensionsSize = value.arrayDimensionsSize > 0 ? value.arrayDimensionsSize : 1;
        attributes.arrayDimensions = any_length;
        attributes.valueRank = (UA_Int32)attributes.arrayDimensionsSize;
    }
    attributes.accessLevel = UA_ACCESSLEVELMASK_READ;
    check(UA_Server_addVariableNode(server, UA_NODEID_STRING(1, name), folder, UA_NODEID_NUMERIC(0, UA_NS0ID_ORGANIZES),
                                    UA_QUALIFIEDNAME(1, name), UA_NODEID_NUMERIC(0, UA_NS0ID_BASEDATAVARIABLETYPE),
                                    attributes, NULL, NULL), name);
}

void add_scalar(UA_Server *server, UA_NodeId folder, char *name, void *content, int type) {
    UA_Variant value;
    UA_Variant_setScalar(&value, content, &UA_TYPES[type]);
    add_variable(server, folder, name, value);
}

void write_now(UA_Server *server, UA_NodeId id, const UA_Variant *content) {
    UA_DataValue value;
    UA_DataValue_init(&value);
    value.value = *content;
    value.hasValue = true;
    value.sourceTimestamp = UA_DateTime_now();
    value.hasSourceTimestamp = true;
    check(UA_Server_writeDataValue(server, id, value), "write of a variable");
}
