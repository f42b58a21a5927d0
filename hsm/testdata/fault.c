/* A PKCS#11 module that forwards to another one and breaks chosen calls.
 *
 *   SEALWRIGHT_FAULT_MODULE  path of the real module
 *   SEALWRIGHT_FAULT_RULES   a file, read at every call, of lines "FUNCTION ACTION VALUE COUNT":
 *       rv VALUE       answer VALUE without asking the real module
 *       rvafter VALUE  ask the real module, then answer VALUE: the outcome is lost
 *       flip VALUE     ask, then flip a bit of output byte VALUE
 *     COUNT is how many calls the rule breaks before it is spent
 *   SEALWRIGHT_FAULT_LOG     a file to which the name of every wrapped call is appended
 */
#define _GNU_SOURCE
#include "pkcs11go.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum action { NONE, RV, RVAFTER, FLIP };

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST list;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	char line[128];
	int hits;
} spent[64];

static enum action decide(const char *function, unsigned long *value) {
	const char *path = getenv("SEALWRIGHT_FAULT_LOG");
	enum action found = NONE;
	pthread_mutex_lock(&lock);
	FILE *f = path ? fopen(path, "ae") : NULL;
	if (f) {
		fprintf(f, "%s\n", function);
		fclose(f);
	}
	path = getenv("SEALWRIGHT_FAULT_RULES");
	f = path ? fopen(path, "re") : NULL;
	char line[128];
	while (f && found == NONE && fgets(line, sizeof line, f)) {
		char name[64], action[16];
		int count, i = 0;
		if (sscanf(line, "%63s %15s %li %i", name, action, (long *)value, &count) != 4 || strcmp(name, function))
			continue;
		while (i < 63 && spent[i].line[0] && strcmp(spent[i].line, line))
			i++;
		strcpy(spent[i].line, line);
		if (spent[i].hits++ >= count)
			continue;
		found = !strcmp(action, "rv") ? RV : !strcmp(action, "rvafter") ? RVAFTER : FLIP;
	}
	if (f)
		fclose(f);
	pthread_mutex_unlock(&lock);
	return found;
}

#define WRAP(function, parameters, arguments, out, length)                       \
	static CK_RV my_##function parameters {                                      \
		unsigned long value = 0;                                                 \
		enum action action = decide(#function, &value);                          \
		if (action == RV)                                                        \
			return value;                                                        \
		CK_RV rv = real->function arguments;                                     \
		unsigned char *bytes = (unsigned char *)(out);                           \
		CK_ULONG size = (length);                                                \
		if (rv == CKR_OK && action == RVAFTER)                                   \
			return value;                                                        \
		if (rv == CKR_OK && action == FLIP && bytes && value < size)             \
			bytes[value] ^= 1;                                                   \
		return rv;                                                               \
	}

WRAP(C_Initialize, (CK_VOID_PTR a), (a), NULL, 0)
WRAP(C_OpenSession, (CK_SLOT_ID s, CK_FLAGS f, CK_VOID_PTR a, CK_NOTIFY n, CK_SESSION_HANDLE_PTR h), (s, f, a, n, h), NULL, 0)
WRAP(C_GetSessionInfo, (CK_SESSION_HANDLE s, CK_SESSION_INFO_PTR i), (s, i), NULL, 0)
WRAP(C_Login, (CK_SESSION_HANDLE s, CK_USER_TYPE u, CK_UTF8CHAR_PTR p, CK_ULONG n), (s, u, p, n), NULL, 0)
WRAP(C_FindObjectsInit, (CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, t, n), NULL, 0)
WRAP(C_GetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, o, t, n), NULL, 0)
WRAP(C_DestroyObject, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o), (s, o), NULL, 0)
WRAP(C_SignInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), (s, m, k), NULL, 0)
WRAP(C_Sign, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR l), (s, d, n, o, l), o, *l)
WRAP(C_Encrypt, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR l), (s, d, n, o, l), o, *l)
WRAP(C_Decrypt, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR l), (s, d, n, o, l), o, *l)
WRAP(C_GenerateKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR k), (s, m, t, n, k), NULL, 0)
WRAP(C_GenerateKeyPair,
	(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR a, CK_ULONG an, CK_ATTRIBUTE_PTR b, CK_ULONG bn, CK_OBJECT_HANDLE_PTR x, CK_OBJECT_HANDLE_PTR y),
	(s, m, a, an, b, bn, x, y), NULL, 0)
WRAP(C_GenerateRandom, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n), (s, d, n), d, n)

#define USE(function) list.function = my_##function;

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out) {
	pthread_mutex_lock(&lock);
	if (!real) {
		void *library = dlopen(getenv("SEALWRIGHT_FAULT_MODULE"), RTLD_NOW | RTLD_LOCAL);
		CK_C_GetFunctionList get = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
		if (!get || get(&real) != CKR_OK) {
			pthread_mutex_unlock(&lock);
			return CKR_GENERAL_ERROR;
		}
		list = *real;
		list.C_GetFunctionList = C_GetFunctionList;
		USE(C_Initialize) USE(C_OpenSession) USE(C_GetSessionInfo) USE(C_Login)
		USE(C_FindObjectsInit) USE(C_GetAttributeValue) USE(C_DestroyObject)
		USE(C_SignInit) USE(C_Sign) USE(C_Encrypt) USE(C_Decrypt)
		USE(C_GenerateKey) USE(C_GenerateKeyPair) USE(C_GenerateRandom)
	}
	pthread_mutex_unlock(&lock);
	*out = &list;
	return CKR_OK;
}
