/* An OPC UA server for tests, on open62541 1.4 (part of scada-engine, Apache-2.0).
 *
 *     server PORT [--variables N] [--interval-ms MS] [--type NAME] [--sampled]
 *         [--certificate FILE --key FILE --application-uri URI [--only-secure] [--deprecated]
 *          [--trusted-client FILE]]
 *         [--user NAME:PASSWORD]... [--user-certificate FILE] [--no-anonymous]
 *         [--max-items-per-call N] [--max-items-per-subscription N] [--max-nodes-per-read N] [--max-nodes-per-browse N]
 *         [--max-session-ms MS] [--max-lifetime-count N] [--max-retransmission N]
 *         [--history-page N] [--namespace-before] [--service-level N]
 *
 * Folder Tags: ns=1;s=tag.0 .. tag.N-1, counters. All of them go 0, 1, 2, ... together, one step per interval, so a gap
 * or a repeated value in a database can be seen. Every step is put into every subscriber's queue: the sampling interval
 * is revised to 0, "report each change" (OPC 10000-4, 5.12.1.2). With --sampled the client's sampling interval counts.
 * SIGUSR1 holds the counters, SIGUSR2 lets them go on. With --history-page the counters keep their history, and a
 * HistoryRead answers N values at most, then a continuation point.
 *
 * Folder Types: one variable of each built-in type that matters, with fixed values (../fixed_values.py lists them).
 * Folder Changing: what changing.c says; lines on standard input change it.
 *
 * A certificate brings the policies that open62541 recommends, with --deprecated Basic128Rsa15 and Basic256, too; each
 * with Sign and SignAndEncrypt; and None unless --only-secure.
 *
 * Listens on 127.0.0.1, prints READY, ends on SIGTERM and when its parent dies.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "options.h"

#define COMMANDS_EVERY_MS 20.0

static volatile sig_atomic_t running = 1;
static volatile sig_atomic_t holding = 0;

static Options options;
static UA_NodeId *tags;
static UA_UInt64 step;

static void on_signal(int number) {
    if(number == SIGUSR1)
        holding = 1;
    else if(number == SIGUSR2)
        holding = 0;
    else
        running = 0;
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
    switch(options.counter_type->typeKind) {
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
    UA_Variant_setScalar(&value.value, &room, options.counter_type);
    value.hasValue = true;
    value.sourceTimestamp = UA_DateTime_now();
    value.hasSourceTimestamp = true;
    for(size_t i = 0; i < options.variables; i++)
        check(UA_Server_writeDataValue(server, tags[i], value), "write of a counter");
    step_changing(server, step);
}

/* Take whole lines from standard input, which does not block. */
static void on_commands(UA_Server *server, void *data) {
    (void)data;
    static char text[4096];
    static size_t held;
    ssize_t got = read(STDIN_FILENO, text + held, sizeof(text) - 1 - held);
    if(got <= 0)
        return;
    held += (size_t)got;
    text[held] = '\0';
    char *line = text, *end;
    while((end = strchr(line, '\n')) != NULL) {
        *end = '\0';
        if(strcmp(line, "hold") == 0)
            holding = 1;
        else if(strcmp(line, "release") == 0)
            holding = 0;
        else
            obey(server, line);
        line = end + 1;
    }
    held = strlen(line);
    memmove(text, line, held);
}

static void add_tags(UA_Server *server) {
    UA_NodeId folder = add_folder(server, "Tags");
    tags = calloc(options.variables, sizeof(*tags));
    char (*names)[MAX_NAME] = calloc(options.variables, sizeof(*names));
    if(tags == NULL || names == NULL)
        check(UA_STATUSCODE_BADOUTOFMEMORY, "tags");
    UA_UInt64 zero = 0;
    UA_Variant value;
    UA_Variant_setScalar(&value, &zero, options.counter_type);
    for(size_t i = 0; i < options.variables; i++) {
        snprintf(names[i], MAX_NAME, "tag.%zu", i);
        tags[i] = UA_NODEID_STRING(1, names[i]); /* names are kept until the process ends */
        add_variable(server, folder, names[i], value);
    }
    if(options.history_page > 0)
        keep_history(server, tags, &options);
}

int main(int argc, char **argv) {
    options = parse_options(argc, argv);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);

    refuse_taken_port(options.port);
    UA_ServerConfig config;
    configure(&config, &options);
    UA_Server *server = UA_Server_newWithConfig(&config);
    if(server == NULL)
        check(UA_STATUSCODE_BADOUTOFMEMORY, "server");
    add_tags(server);
    add_fixed_values(server);
    add_changing(server, &options);
    check(UA_Server_addRepeatedCallback(server, on_interval, NULL, options.interval_ms, NULL), "timer");
    check(UA_Server_addRepeatedCallback(server, on_commands, NULL, COMMANDS_EVERY_MS, NULL), "timer");
    check(UA_Server_run_startup(server), "listening");
    puts("READY");
    fflush(stdout);
    while(running)
        UA_Server_run_iterate(server, true);
    check(UA_Server_run_shutdown(server), "shutdown");
    UA_Server_delete(server);
    return 0;
}
