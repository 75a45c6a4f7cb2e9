/* Reads the test server's command line (part of scada-engine, Apache-2.0). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

static const UA_DataType *type_named(const char *name) {
    for(int i = UA_TYPES_SBYTE; i <= UA_TYPES_DOUBLE; i++)
        if(strcmp(UA_TYPES[i].typeName, name) == 0)
            return &UA_TYPES[i];
    fprintf(stderr, "--type %s: not a numeric OPC UA type\n", name);
    exit(2);
}

static UA_UInt32 number(const char *text) {
    return (UA_UInt32)strtoul(text, NULL, 10);
}

/* Take an option that stands alone; return whether `name` is one. */
static UA_Boolean take_switch(Options *options, const char *name) {
    if(strcmp(name, "--sampled") == 0)
        options->sampled = true;
    else if(strcmp(name, "--only-secure") == 0)
        options->only_secure = true;
    else if(strcmp(name, "--deprecated") == 0)
        options->deprecated = true;
    else if(strcmp(name, "--no-anonymous") == 0)
        options->no_anonymous = true;
    else if(strcmp(name, "--namespace-before") == 0)
        options->namespace_before = true;
    else
        return false;
    return true;
}

/* Take an option with a value; return whether `name` is one. */
static UA_Boolean take_value(Options *options, const char *name, char *value) {
    if(strcmp(name, "--variables") == 0)
        options->variables = number(value);
    else if(strcmp(name, "--interval-ms") == 0)
        options->interval_ms = strtod(value, NULL);
    else if(strcmp(name, "--type") == 0)
        options->counter_type = type_named(value);
    else if(strcmp(name, "--certificate") == 0)
        options->certificate = value;
    else if(strcmp(name, "--key") == 0)
        options->key = value;
    else if(strcmp(name, "--application-uri") == 0)
        options->application_uri = value;
    else if(strcmp(name, "--trusted-client") == 0)
        options->trusted_client = value;
    else if(strcmp(name, "--user") == 0 && options->user_count < MAX_USERS)
        options->users[options->user_count++] = value;
    else if(strcmp(name, "--user-certificate") == 0)
        options->user_certificate = value;
    else if(strcmp(name, "--max-items-per-call") == 0)
        options->max_items_per_call = number(value);
    else if(strcmp(name, "--max-items-per-subscription") == 0)
        options->max_items_per_subscription = number(value);
    else if(strcmp(name, "--max-nodes-per-read") == 0)
        options->max_nodes_per_read = number(value);
    else if(strcmp(name, "--max-nodes-per-browse") == 0)
        options->max_nodes_per_browse = number(value);
    else if(strcmp(name, "--max-lifetime-count") == 0)
        options->max_lifetime_count = number(value);
    else if(strcmp(name, "--max-retransmission") == 0)
        options->max_retransmission = number(value);
    else if(strcmp(name, "--max-session-ms") == 0)
        options->max_session_ms = strtod(value, NULL);
    else if(strcmp(name, "--service-level") == 0)
        options->service_level = (UA_Byte)number(value);
    else if(strcmp(name, "--history-page") == 0)
        options->history_page = number(value);
    else
        return false;
    return true;
}

Options parse_options(int argc, char **argv) {
    if(argc < 2) {
        fprintf(stderr, "usage: %s PORT [options as in server.c]\n", argv[0]);
        exit(2);
    }
    Options options = {
        .port = (UA_UInt16)number(argv[1]),
        .variables = 10,
        .interval_ms = 100.0,
        .counter_type = &UA_TYPES[UA_TYPES_DOUBLE],
        .service_level = 255,
    };
    for(int i = 2; i < argc; i++) {
        if(take_switch(&options, argv[i]))
            continue;
        if(i + 1 >= argc || !take_value(&options, argv[i], argv[i + 1])) {
            fprintf(stderr, "%s: unknown, or without its value\n", argv[i]);
            exit(2);
        }
        i++;
    }
    return options;
}
