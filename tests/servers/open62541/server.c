/* An OPC UA server for tests, on open62541 1.4 (part of scada-engine, Apache-2.0).
 *
 *     server PORT [--variables N] [--interval-ms MS] [--type NAME] [--sampled]
 *
 * Folder Tags: ns=1;s=tag.0 .. tag.N-1, counters. All of them go 0, 1, 2, ... together, one step per interval, so a gap
 * or a repeated value in a database can be seen. Every step is put into every subscriber's queue: the sampling interval
 * is revised to 0, "report each change" (OPC 10000-4, 5.12.1.2). With --sampled the client's sampling interval counts.
 * SIGUSR1 holds the counters, SIGUSR2 lets them go on.
 *
 * Folder Types: one variable of each built-in type that matters, with fixed values (open62541.py lists them).
 *
 * Listens on 127.0.0.1 without security, prints READY, ends on SIGTERM and when its parent dies.
 */
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <open62541/server.h>
#include <open62541/server_config_default.h>

#define MAX_NAME 64

static volatile sig_atomic_t running = 1;
static volatile sig_atomic_t holding = 0;

static const UA_DataType *counter_type;
static UA_NodeId *tags;
static size_t tag_count = 10;
static UA_UInt64 step;

static void on_signal(int number) {
    if(number == SIGUSR1)
        holding = 1;
    else if(number == SIGUSR2)
        holding = 0;
    else
        running = 0;
}

static void check(UA_StatusCode status, const char *what) {
    if(status == UA_STATUSCODE_GOOD)
        return;
    fprintf(stderr, "%s: %s\n", what, UA_StatusCode_name(status));
    exit(1);
}

/* Standard output carries READY only, so what open62541 has to say goes to standard error. */
static void log_to_stderr(void *context, UA_LogLevel level, UA_LogCategory category, const char *text, va_list args) {
    (void)context;
    (void)category;
    if(level < UA_LOGLEVEL_ERROR)
        return;
    vfprintf(stderr, text, args);
    fputc('\n', stderr);
}

/* open62541 listens with SO_REUSEPORT, so that two servers would share a port in silence. */
static void refuse_taken_port(UA_UInt16 port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int reuse = 1;
    int probe = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(probe, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
    if(bind(probe, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(probe, 1) < 0) {
        fprintf(stderr, "port %u: %s\n", port, strerror(errno));
        exit(1);
    }
    close(probe);
}

/* Store `count` in `out` as the counters' type; integers wrap around. */
static void as_counter(UA_UInt64 count, void *out) {
    switch(counter_type->typeKind) {
    case UA_DATATYPEKIND_DOUBLE: *(UA_Double *)out = (UA_Double)count; break;
    case UA_DATATYPEKIND_FLOAT: *(UA_Float *)out = (UA_Float)count; break;
    case UA_DATATYPEKIND_INT64:
    case UA_DATATYPEKIND_UINT64: *(UA_UInt64 *)out = count; break;
    case UA_DATATYPEKIND_INT32:
    case UA_DATATYPEKIND_UINT32: *(UA_UInt32 *)out = (UA_UInt32)count; break;
    case UA_DATATYPEKIND_INT16:
    case UA_DATATYPEKIND_UINT16: *(UA_UInt16 *)out = (UA_UInt16)count; break;
    default: *(UA_Byte *)out = (UA_Byte)count; break;
    }
}

static void on_interval(UA_Server *server, void *data) {
    (void)data;
    if(holding)
        return;
    step++;
    UA_UInt64 room;
    as_counter(step, &room);
    UA_DataValue value;
    UA_DataValue_init(&value);
    UA_Variant_setScalar(&value.value, &room, counter_type);
    value.hasValue = true;
    value.sourceTimestamp = UA_DateTime_now();
    value.hasSourceTimestamp = true;
    for(size_t i = 0; i < tag_count; i++)
        check(UA_Server_writeDataValue(server, tags[i], value), "write of a counter");
}

static UA_NodeId add_folder(UA_Server *server, char *name) {
    UA_ObjectAttributes attributes = UA_ObjectAttributes_default;
    attributes.displayName = UA_LOCALIZEDTEXT("", name);
    UA_NodeId id = UA_NODEID_STRING(1, name);
    check(UA_Server_addObjectNode(server, id, UA_NODEID_NUMERIC(0, UA_NS0ID_OBJECTSFOLDER),
                                  UA_NODEID_NUMERIC(0, UA_NS0ID_ORGANIZES), UA_QUALIFIEDNAME(1, name),
                                  UA_NODEID_NUMERIC(0, UA_NS0ID_FOLDERTYPE), attributes, NULL, NULL), name);
    return id;
}

/* Add a variable with the value that `value` holds; the caller keeps `value`. */
static void add_variable(UA_Server *server, UA_NodeId folder, char *name, UA_Variant value) {
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

static void add_scalar(UA_Server *server, UA_NodeId folder, char *name, void *content, int type) {
    UA_Variant value;
    UA_Variant_setScalar(&value, content, &UA_TYPES[type]);
    add_variable(server, folder, name, value);
}

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

static void add_tags(UA_Server *server) {
    UA_NodeId folder = add_folder(server, "Tags");
    tags = calloc(tag_count, sizeof(*tags));
    char (*names)[MAX_NAME] = calloc(tag_count, sizeof(*names));
    if(tags == NULL || names == NULL)
        check(UA_STATUSCODE_BADOUTOFMEMORY, "tags");
    UA_UInt64 zero = 0;
    UA_Variant value;
    UA_Variant_setScalar(&value, &zero, counter_type);
    for(size_t i = 0; i < tag_count; i++) {
        snprintf(names[i], MAX_NAME, "tag.%zu", i);
        tags[i] = UA_NODEID_STRING(1, names[i]); /* names are kept until the process ends */
        add_variable(server, folder, names[i], value);
    }
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

static void configure(UA_ServerConfig *config, UA_UInt16 port, UA_Boolean sampled) {
    static UA_Logger logger = {log_to_stderr, NULL, NULL};
    memset(config, 0, sizeof(*config));
    config->logging = &logger;
    check(UA_ServerConfig_setMinimal(config, port, NULL), "configuration");
    char url[MAX_NAME];
    snprintf(url, sizeof(url), "opc.tcp://127.0.0.1:%u", port);
    UA_Array_delete(config->serverUrls, config->serverUrlsSize, &UA_TYPES[UA_TYPES_STRING]);
    config->serverUrls = UA_String_new();
    *config->serverUrls = UA_String_fromChars(url);
    config->serverUrlsSize = 1;
    config->publishingIntervalLimits.min = 5.0; /* the least that open62541 allows */
    config->samplingIntervalLimits.min = sampled ? 5.0 : 0.0;
    if(!sampled)
        config->samplingIntervalLimits.max = 0.0;
    config->queueSizeLimits.max = 100000;
    config->maxNotificationsPerPublish = 10000;
}

static const UA_DataType *type_named(const char *name) {
    for(int i = UA_TYPES_SBYTE; i <= UA_TYPES_DOUBLE; i++)
        if(strcmp(UA_TYPES[i].typeName, name) == 0)
            return &UA_TYPES[i];
    fprintf(stderr, "--type %s: not a numeric OPC UA type\n", name);
    exit(2);
}

int main(int argc, char **argv) {
    if(argc < 2) {
        fprintf(stderr, "usage: %s PORT [--variables N] [--interval-ms MS] [--type NAME] [--sampled]\n", argv[0]);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    double interval_ms = 100.0;
    UA_Boolean sampled = false;
    counter_type = &UA_TYPES[UA_TYPES_DOUBLE];
    for(int i = 2; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : "";
        if(strcmp(argv[i], "--sampled") == 0) {
            sampled = true;
            continue;
        }
        if(strcmp(argv[i], "--variables") == 0)
            tag_count = strtoul(next, NULL, 10);
        else if(strcmp(argv[i], "--interval-ms") == 0)
            interval_ms = strtod(next, NULL);
        else if(strcmp(argv[i], "--type") == 0)
            counter_type = type_named(next);
        else {
            fprintf(stderr, "%s: unknown\n", argv[i]);
            return 2;
        }
        i++;
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);

    UA_UInt16 port = (UA_UInt16)strtoul(argv[1], NULL, 10);
    refuse_taken_port(port);
    UA_ServerConfig config;
    configure(&config, port, sampled);
    UA_Server *server = UA_Server_newWithConfig(&config);
    if(server == NULL)
        check(UA_STATUSCODE_BADOUTOFMEMORY, "server");
    add_tags(server);
    UA_NodeId folder = add_folder(server, "Types");
    add_numbers(server, folder);
    add_others(server, folder);
    check(UA_Server_addRepeatedCallback(server, on_interval, NULL, interval_ms, NULL), "timer");
    check(UA_Server_run_startup(server), "listening");
    puts("READY");
    fflush(stdout);
    while(running)
        UA_Server_run_iterate(server, true);
    check(UA_Server_run_shutdown(server), "shutdown");
    UA_Server_delete(server);
    return 0;
}
