/* The test server's command line, and what its files ask of each other (part of scada-engine, Apache-2.0). */
#ifndef SCADA_TEST_OPTIONS_H
#define SCADA_TEST_OPTIONS_H

#include <open62541/server.h>

#define MAX_NAME 64
#define MAX_USERS 8

typedef struct {
    UA_UInt16 port;
    size_t variables;
    double interval_ms;
    const UA_DataType *counter_type;
    UA_Boolean sampled;

    const char *certificate, *key; /* files; both or none */
    const char *application_uri;
    UA_Boolean only_secure;
    UA_Boolean deprecated;         /* Basic128Rsa15 and Basic256, too */
    const char *trusted_client;    /* file; NULL accepts every client */
    UA_Boolean no_anonymous;
    char *users[MAX_USERS];        /* NAME:PASSWORD */
    size_t user_count;
    const char *user_certificate;  /* file of a user's certificate that may log in */

    UA_UInt32 max_items_per_call, max_items_per_subscription, max_nodes_per_read, max_nodes_per_browse;
    UA_UInt32 max_lifetime_count, max_retransmission;
    double max_session_ms;
    UA_Boolean namespace_before;
    UA_Byte service_level;
    size_t history_page;           /* values a HistoryRead answers at most; 0: no history is kept */
} Options;

Options parse_options(int argc, char **argv);

/* End the program with the reason unless `status` is Good. */
void check(UA_StatusCode status, const char *what);

/* security.c */
void configure(UA_ServerConfig *config, const Options *options);

/* nodes.c */
UA_NodeId add_folder(UA_Server *server, char *name);
void add_variable(UA_Server *server, UA_NodeId folder, char *name, UA_Variant value);
void add_scalar(UA_Server *server, UA_NodeId folder, char *name, void *content, int type);
/* Write a variable of namespace 1 with this moment as its source timestamp. */
void write_now(UA_Server *server, UA_NodeId id, const UA_Variant *value);

/* fixed.c */
void add_fixed_values(UA_Server *server);

/* history.c */
void prepare_history(UA_ServerConfig *config, const Options *options);
void keep_history(UA_Server *server, const UA_NodeId *tags, const Options *options);

/* changing.c */
extern const UA_DataTypeArray custom_types;
void add_changing(UA_Server *server, const Options *options);
void step_changing(UA_Server *server, UA_UInt64 step);
/* Obey one line from standard input: set NAME NUMBER, service-level NUMBER. Others are ignored. */
void obey(UA_Server *server, const char *line);

#endif
